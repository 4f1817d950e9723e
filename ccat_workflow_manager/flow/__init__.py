"""Programs as workflows: Python functions whose calls become tasks on any backend.

backend = await factory.create_backend("concurrent", config={"max_workers": 4})
async with await WorkflowEngine.create(backend=backend) as flow:

    @flow.executable_task
    async def calibrate(scan):
        return ["calibrate", "--scan", str(scan)]

    @flow.function_task
    def combine(*maps):
        return sum(float(each) for each in maps)

    print(await combine(*[calibrate(scan) for scan in range(4)]))
"""

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.flow import factory
from ccat_workflow_manager.flow.engine import WorkflowEngine
from ccat_workflow_manager.flow.errors import BackendNotAvailable, DependencyFailed, FlowError, TaskFailed
from ccat_workflow_manager.flow.files import InputFile, OutputFile
from ccat_workflow_manager.flow.future import TaskFuture, TaskState
from ccat_workflow_manager.flow.jobs import NoopExecutionBackend
from ccat_workflow_manager.flow.pool import ConcurrentExecutionBackend, LocalExecutionBackend

__all__ = [
    "BackendNotAvailable",
    "BackendRejected",
    "ConcurrentExecutionBackend",
    "DependencyFailed",
    "FlowError",
    "InputFile",
    "LocalExecutionBackend",
    "NoopExecutionBackend",
    "OutputFile",
    "TaskFailed",
    "TaskFuture",
    "TaskState",
    "WorkflowEngine",
    "factory",
]
