"""Runs the containers of the stand-in Kubernetes server: a small process of its own, standard library only.

    python -I -S start.py [CONTROL GROUP]

It reads orders and writes news, one JSON object a line. Each container has a shim, a fork of this process, which starts
its program, writes its log, and kills whatever the program leaves behind. When the server goes, in whatever way, its
pipe closes, and this process ends every shim and with it every process of every container, and removes the control
groups that the server has made below CONTROL GROUP. Should this process be killed, the shims see to the rest.
"""
