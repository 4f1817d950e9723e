"""ccat-workflow-manager: durable pipelines of containers on whatever computes at your site."""

__version__ = "0.1.0"
