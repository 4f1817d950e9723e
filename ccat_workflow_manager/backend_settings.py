"""The settings of our own backends: part of the list of settings, see `settings.py`.

A setting `X_Y` is the keyword `y` of the backend `x`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ccat_workflow_manager.setting_rules import Rule, at_least, between, matching, more_than, one_of, url_of


def setting(about: str, rule: Rule | None = None, *, secret: bool = False, group: str = "") -> Any:
    """One line of the list. `group` opens a new group of the documentation."""
    return field(metadata={"about": about, "rule": rule, "secret": secret, "group": group})


@dataclass(frozen=True, kw_only=True, repr=False)
class BackendSettings:
    """What the backends of this package can be told."""

    local_max_cpu: float = setting("Cores for all local jobs together; 0: all.", at_least(0), group="Backends")
    local_max_memory_gb: float = setting("Memory for all local jobs together; 0: 90 % of it.", at_least(0))
    local_state_dir: str = setting("Notes on local jobs, on a disk of the machine; empty: under `DATA_DIR`.")
    noop_delay_seconds: float = setting("How long a job of the noop backend pretends to run.", at_least(0))
    noop_failure_rate: float = setting("Share of noop jobs that fail.", between(0, 1))
    concurrent_max_workers: int = setting("Size of the pool of the concurrent backend; 0: the cores.", at_least(0))
    concurrent_executor: str = setting("What that pool is made of.", one_of("thread", "process"))
    concurrent_state_dir: str = setting("Notes on its jobs, for all workers of the machine; empty: under `DATA_DIR`.")
    slurm_partition: str = setting("Partition of the Slurm jobs that name none; empty: the cluster's default.")
    slurm_account: str = setting("Account of the Slurm jobs whose step names none; empty: the user's default.")
    slurm_qos: str = setting("Quality of service of the Slurm jobs whose step names none; empty: the default.")
    slurm_conf: str = setting("The `slurm.conf` that Slurm's commands read; empty: where they look by themselves.")
    slurm_ssh_host: str = setting(
        "The submit node to run Slurm's commands on, as `ssh` takes it; empty: they are here."
    )
    slurm_ssh_config: str = setting("The configuration of `ssh` for that, if not the user's.")
    slurm_state_dir: str = setting("What was submitted to Slurm, seen by all its workers; empty: under `DATA_DIR`.")
    slurm_calls_per_minute: int = setting("Calls of Slurm's commands in any minute, by all workers.", at_least(1))
    slurm_poll_seconds: float = setting("A look at Slurm's queue is not repeated sooner than this.", at_least(0))
    slurm_array_limit: int = setting("Tasks of one Slurm job array that run at once; 0: no limit.", at_least(0))
    slurm_signal_seconds: int = setting(
        "How long before its time limit (of 10 minutes or more) a Slurm job gets SIGTERM; 0: never.", at_least(0)
    )
    pbs_queue: str = setting("Queue of the PBS jobs whose step names none; empty: the server's default.")
    pbs_account: str = setting("Account of the PBS jobs whose step names none; empty: the user's default.")
    pbs_state_dir: str = setting("What was submitted to PBS, seen by all its workers; empty: under `DATA_DIR`.")
    pbs_calls_per_minute: int = setting("Calls of PBS's commands in any minute, by all workers.", at_least(1))
    dask_scheduler_address: str = setting(
        "Scheduler of the Dask jobs; empty: a cluster of our own on the machine of the worker.",
        matching(r"|(tcp|tls|ws|wss|ucx)://\S+", "an address such as `tcp://host:8786`, or empty"),
    )
    dask_resources: str = setting(
        "What the workers of that scheduler declare (`--resources`) and jobs take from them, of `cpu`, `memory_gb`, "
        "`gpu`; empty: a job takes one thread, whatever it asks for."
    )
    dask_state_dir: str = setting("What was submitted to Dask, seen by all its workers; empty: under `DATA_DIR`.")
    dask_workers: int = setting("Dask workers of our own cluster.", at_least(1))
    dask_jobs_per_worker: int = setting("Jobs that each of them runs at once; 0: four for each core.", at_least(0))
    dask_idle_seconds: float = setting("Our own Dask cluster ends when it has been idle for so long.", at_least(1))
    aws_batch_job_queue: str = setting("Job queue of the AWS Batch jobs whose step names none.")
    aws_batch_region: str = setting("Region of that queue; empty: as AWS's own configuration says.")
    aws_batch_profile: str = setting("Profile of AWS's configuration files to use; empty: the usual credentials.")
    aws_batch_endpoint_url: str = setting(
        "Where AWS Batch is asked, and nothing else; empty: as AWS's own configuration says.", url_of("http", "https")
    )
    aws_batch_image: str = setting("The image that AWS Batch jobs run in: with Apptainer, or with the programs.")
    aws_batch_job_definition: str = setting("An AWS Batch job definition to use instead of registering one.")
    aws_batch_mode: str = setting(
        "How steps run in AWS Batch jobs: by Apptainer in `AWS_BATCH_IMAGE`, or each in a job of its own image.",
        one_of("apptainer", "native"),
    )
    aws_batch_platform: str = setting("What the AWS Batch queue's machines are.", one_of("EC2", "FARGATE"))
    aws_batch_volumes: str = setting(
        "What AWS Batch jobs see under the same path as the worker: `/data=/mnt/data,/cache=efs:fs-1:/cache`."
    )
    aws_batch_privileged: bool = setting("Whether AWS Batch containers are privileged, as Apptainer may need it.")
    aws_batch_user: str = setting("User in AWS Batch containers, `1000:1000`; empty: as the image says.")
    aws_batch_job_role: str = setting("ARN of the role that AWS Batch jobs have; empty: none.")
    aws_batch_execution_role: str = setting("ARN of the role that starts AWS Batch jobs; Fargate needs one.")
    aws_batch_assign_public_ip: bool = setting("Whether Fargate jobs get a public address.")
    aws_batch_share_identifier: str = setting("Share of AWS Batch jobs whose step names no account; empty: none.")
    aws_batch_log_group: str = setting("Log group that AWS Batch containers write to.")
    aws_batch_s3_prefix: str = setting("Where attempts travel, `s3://bucket/prefix`, if jobs share no filesystem.")
    aws_batch_calls_per_minute: int = setting("Calls of AWS in any minute, by all workers.", at_least(1))
    aws_batch_state_dir: str = setting("What was submitted to AWS Batch, for all workers; empty: under `DATA_DIR`.")
    radical_pilot_resource: str = setting(
        "Where pilots run, as RADICAL-Pilot calls it; `local.localhost` is the machine of the worker.",
        matching(r"\w+\.\w+", "a label such as `ornl.frontier`"),
    )
    radical_pilot_nodes: int = setting("Nodes of a pilot.", at_least(1))
    radical_pilot_cores: int = setting("Cores of a pilot, instead of nodes; 0: nodes, here all cores.", at_least(0))
    radical_pilot_gpus: int = setting("GPUs of each node of a pilot that steps may ask for.", at_least(0))
    radical_pilot_memory_gb: float = setting("Memory of such a node; 0: as the label says, here all.", at_least(0))
    radical_pilot_queue: str = setting("Queue of the pilots; empty: as the label says.")
    radical_pilot_project: str = setting("Project that pays for the pilots.")
    radical_pilot_schema: str = setting("How the machine is reached, if its label knows several ways.")
    radical_pilot_walltime_minutes: int = setting("Time of a pilot; no step may ask for more.", at_least(1))
    radical_pilot_idle_minutes: float = setting("A pilot ends when it has had nothing to do for so long.", more_than(0))
    radical_pilot_state_dir: str = setting("Notes and pilots, on a disk that nodes see; empty: under `DATA_DIR`.")
    k8s_namespace: str = setting(
        "Namespace of the Kubernetes jobs.", matching(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a DNS label")
    )
    kubernetes_namespace: str = setting("Overrides `K8S_NAMESPACE`; empty: that one.")
    kubernetes_context: str = setting("Context of the kubeconfig; empty: its current one.")
    kubernetes_mode: str = setting(
        "`apptainer`: the command with Apptainer in front, in the launcher image. `native`: the OCI image of the step.",
        one_of("apptainer", "native"),
    )
    kubernetes_launcher_image: str = setting("Image of the pods with `apptainer`; it holds Apptainer, or what is run.")
    kubernetes_volume: str = setting(
        "Where pods find `PIPELINE_BASE_DIR`: `hostpath:/DIR`, `pvc:CLAIM`, `pvc:CLAIM/DIR` or `nfs:SERVER:/EXPORT`. "
        "Empty: the directory of this name on each node."
    )
    kubernetes_sif_volume: str = setting(
        "The same for `SIF_CACHE_DIR`, with `apptainer`; not needed if that is below `PIPELINE_BASE_DIR`."
    )
    kubernetes_node_selector: str = setting("Labels of the nodes for pods, as YAML or JSON: `{disk: ssd}`.")
    kubernetes_tolerations: str = setting("Tolerations of the pods, as YAML or JSON.")
    kubernetes_service_account: str = setting("Service account of the pods; empty: the namespace's default.")
    kubernetes_pull_secrets: str = setting("Secrets for private registries, separated by commas.")
    kubernetes_priority_class: str = setting("PriorityClass of the pods whose step names none.")
    kubernetes_gpu_resource: str = setting("What GPUs are called in the cluster.")
    kubernetes_pod_patch: str = setting("Strategic merge patch for the template of every pod, as YAML or JSON.")
    kubernetes_privileged: bool = setting("With `apptainer`: privileged pods, where Apptainer does not run otherwise.")
    kubernetes_run_as: str = setting("User of the pods: `UID`, `UID:GID` or `image`; empty: the worker's own.")
    kubernetes_deployment: str = setting("Label `app.kubernetes.io/instance` of everything this deployment creates.")
    kubernetes_margin_seconds: float = setting(
        "Beyond its time limit a pod may take this long, for fetching its image and for ending.", at_least(0)
    )
    kubernetes_pending_hours: float = setting("A Job that has not begun after so long is given up.", more_than(0))
    kubernetes_ttl_seconds: int = setting("Finished Jobs that nobody has cleaned up go after so long.", at_least(60))
    kubernetes_image_grace_seconds: float = setting("How long an image may fail to come.", at_least(0))
    kubernetes_poll_seconds: float = setting("Without a watch, jobs are not listed again sooner.", at_least(0))
    kubernetes_request_seconds: float = setting("How long one request may take, repetitions included.", more_than(0))
    kubernetes_watch: bool = setting("Whether changes are watched; otherwise jobs are listed.")
