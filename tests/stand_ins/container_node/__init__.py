"""Runs the containers of the stand-in Kubernetes server: a small process of its own, standard library only.

It is no container runtime: a container is a process in a mount namespace, and in a control group if there are any.
The process reads orders and writes reports, one JSON object a line. Each container has a shim, a fork of this process,
which starts its program, writes its log, and kills what the program leaves behind. When the server goes, even killed,
its pipe closes, and this process ends every shim and with it every process of every container, and removes the control
groups that the server has made. Should this process be killed, the shims kill their containers.
"""
