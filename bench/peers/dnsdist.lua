-- dnsdist without its packet cache, which would answer in the servers' place: what is compared is passing on.
-- A socket, and with it a thread, for each worker (reusePort).
setSecurityPollSuffix("")
setACL({"0.0.0.0/0"})
{% for frontend in task.frontends if frontend.mode == "udp" and not frontend.engine %}
setLocal("{{ frontend.address }}", {reusePort={{ "true" if task.workers > 1 else "false" }}})
{% for _ in range(1, task.workers) %}
addLocal("{{ frontend.address }}", {reusePort=true})
{% endfor %}
setServerPolicy(roundrobin)
{% for _, address in frontend.named_servers %}
newServer({address="{{ address }}", checkName="{{ dns_name }}.", checkType="SOA", mustResolve=true, checkInterval={{ check_ms // 1000 }}})
{% endfor %}
{% endfor %}
