"""A stand-in for a Kubernetes cluster: real HTTP on loopback, a job controller, a kubelet that really runs commands.

    with ApiServer(directory, images={"bb:1": Image()}) as server:
        client = kubernetes.config.new_client_from_config(str(server.kubeconfig))
        ...
        server.faults.too_many_requests(3)

As a process of its own, which several workers share:

    python -m tests.stand_ins.kubernetes --directory D --image bb:1

prints the path of its kubeconfig; `RemoteServer(D)` gives `url`, `kubeconfig` and `faults` of it.

It answers as a real 1.20.2 did (the tests replay what was recorded from one), or, by default, as the documentation says
that a current one does: more labels, conditions and fields of the same kind.
"""

from tests.stand_ins.kubernetes.faults import Faults
from tests.stand_ins.kubernetes.models import Image, Node
from tests.stand_ins.kubernetes.remote import RemoteServer
from tests.stand_ins.kubernetes.server import ApiServer

__all__ = ["ApiServer", "Faults", "Image", "Node", "RemoteServer"]
