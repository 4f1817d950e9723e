"""The demo: a small observatory reduction with pictures, in containers where there is a container runtime."""

from ccat_workflow_manager.demo.image import ensure_demo_image
from ccat_workflow_manager.demo.pipeline import PIPELINE_FILE, demo_pipeline

__all__ = ["PIPELINE_FILE", "demo_pipeline", "ensure_demo_image"]
