"""A stand-in for a Kubernetes cluster: real HTTP on loopback, a job controller, a kubelet that runs real commands.

    with ApiServer(directory, images={"bb:1": Image()}) as server:
        client = kubernetes.config.new_client_from_config(str(server.kubeconfig))
        ...
        server.faults.too_many_requests(3)

It is not Kubernetes. With `version="1.20"` it answers as a recorded 1.20.2 did, whose recording
tests/backends/kubernetes/test_traces.py replays. By default it answers as the documentation describes a current server.
It serves what the backend of this project and the recording use: Jobs, their pods, logs and events, and nothing else.
"""

from tests.stand_ins.kubernetes.objects import Image, Node
from tests.stand_ins.kubernetes.server import ApiServer

__all__ = ["ApiServer", "Image", "Node"]
