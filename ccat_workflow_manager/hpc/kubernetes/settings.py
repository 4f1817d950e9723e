"""Settings of the Kubernetes backend."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings, matching

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DnsLabel = Annotated[str, matching(_DNS_LABEL, "a DNS label")]
LabelValue = Annotated[
    str, matching(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", "at most 63 letters, digits, '-', '_' and '.'")
]


class KubernetesSettings(BackendSettings):
    """`KUBERNETES_...`: the cluster, the pods of jobs, and the patience with both."""

    short_prefix: ClassVar[str] = "K8S_"

    k8s_namespace: DnsLabel = Field(default="ccat-workflows", description="Namespace of the Kubernetes jobs.")
    namespace: Annotated[str, matching(f"({_DNS_LABEL})?", "empty or a DNS label")] = Field(
        default="", description="Overrides `K8S_NAMESPACE`; empty: that one."
    )
    context: str = Field(default="", description="Context of the kubeconfig; empty: its current one.")
    mode: Literal["apptainer", "native"] = Field(
        default="apptainer",
        description="`apptainer`: the command with Apptainer in front, in the launcher image. `native`: the OCI image "
        "of the step.",
    )
    launcher_image: str = Field(
        default="", description="Image of the pods with `apptainer`; it holds Apptainer, or what is run."
    )
    volume: str = Field(
        default="",
        description="Where pods find `PIPELINE_BASE_DIR`: `hostpath:/DIR`, `pvc:CLAIM`, `pvc:CLAIM/DIR` or "
        "`nfs:SERVER:/EXPORT`. Empty: the directory of this name on each node.",
    )
    sif_volume: str = Field(
        default="",
        description="The same for `SIF_CACHE_DIR`, with `apptainer`; not needed if that is below `PIPELINE_BASE_DIR`.",
    )
    input_volumes: str = Field(
        default="",
        description="Where pods find directories of `INPUT_ROOTS`, separated by commas: `/DIR=VOLUME`, with a volume "
        "as above; read-only.",
    )
    node_selector: str = Field(default="", description="Labels of the nodes for pods, as YAML or JSON: `{disk: ssd}`.")
    tolerations: str = Field(default="", description="Tolerations of the pods, as YAML or JSON.")
    service_account: str = Field(default="", description="Service account of the pods; empty: the namespace's default.")
    pull_secrets: str = Field(default="", description="Secrets for private registries, separated by commas.")
    secrets_prefix: DnsLabel = Field(
        default="ccat-wm-secrets",
        description="The secrets of steps are keys of the Secret `PREFIX-PROJECT` in the namespace of the jobs.",
    )
    priority_class: str = Field(default="", description="PriorityClass of the pods whose step names none.")
    allowed_priority_classes: str = Field(
        default="", description="PriorityClasses that a step may choose, separated by commas."
    )
    allowed_node_labels: str = Field(
        default="", description="Labels by which a step may choose nodes, separated by commas: `KEY` or `KEY=VALUE`."
    )
    allowed_tolerations: str = Field(
        default="", description="Keys of the taints that a step may tolerate, separated by commas."
    )
    gpu_resource: str = Field(default="nvidia.com/gpu", description="What GPUs are called in the cluster.")
    pod_patch: str = Field(
        default="", description="Strategic merge patch for the template of every pod, as YAML or JSON."
    )
    privileged: bool = Field(
        default=False, description="With `apptainer`: privileged pods, where Apptainer does not run otherwise."
    )
    run_as: Annotated[str, matching(r"(\d{1,10}(:\d{1,10})?|image)?", "UID, UID:GID, image, or empty")] = Field(
        default="", description="User of the pods: `UID`, `UID:GID` or `image`; empty: the worker's own."
    )
    deployment: LabelValue = Field(
        default="ccat-wm", description="Label `app.kubernetes.io/instance` of everything this deployment creates."
    )
    margin_seconds: float = Field(
        default=120,
        ge=0,
        description="Beyond its time limit a pod may take this long, for fetching its image and for ending.",
    )
    pending_hours: float = Field(default=168, gt=0, description="A Job that has not begun after so long is given up.")
    ttl_seconds: int = Field(
        default=604_800, ge=60, description="Finished Jobs that no worker has cleaned up go after so long."
    )
    image_grace_seconds: float = Field(default=120, ge=0, description="How long an image may fail to come.")
    poll_seconds: float = Field(default=2, ge=0, description="Without a watch, jobs are not listed again sooner.")
    request_seconds: float = Field(default=30, gt=0, description="How long one request may take, repetitions included.")
    watch: bool = Field(default=True, description="Whether changes are watched; otherwise jobs are listed.")

    @property
    def used_namespace(self) -> str:
        return self.namespace or self.k8s_namespace
