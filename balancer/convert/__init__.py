"""What did the old files say? haproxy.cfg, keepalived.conf and `ipvsadm-save`, made one balancer.yaml.

    text → lines of words (haproxy_lines, keepalived_lines) → a table of directives each (haproxy, keepalived, ipvs)
         → one tree with the place of each part (tree) → what does not load is taken out (mend) → text (render)

Nothing is started, resolved or asked for on the network; files that the old ones name are read.
"""
