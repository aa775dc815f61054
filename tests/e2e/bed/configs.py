"""Configurations that several test files use; `${name}` is a port (bed.pybalancer)."""

from __future__ import annotations

__all__ = ["HTTP", "HTTP_UP"]

HTTP = """
global: {workers: 1}
frontends:
  http:
    mode: http
    bind: 127.0.0.1:${http}
    forwarded_for: true
    default_backend: web
backends:
  web:
    cookie: {name: SERVERID, mode: insert}
    check: {type: http, method: OPTIONS, path: /health, interval: 500ms, expect: {status: "200,405"}}
    servers:
      web1: {address: "127.0.0.1:${web1}", cookie: web1}
      web2: {address: "127.0.0.1:${web2}", cookie: web2}
      web3: {address: "127.0.0.1:${web3}", cookie: web3}
"""
HTTP_UP = ("web/web1", "web/web2", "web/web3")
