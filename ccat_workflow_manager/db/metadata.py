"""What all tables share: the names of constraints, the types of times, the column of the project."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, MetaData, Text, func, text

from ccat_workflow_manager.definition.project import DEFAULT_PROJECT

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

TIME = DateTime(timezone=True)
NOW = func.now()


def project_column() -> Column[str]:
    return Column("project", Text, nullable=False, server_default=text(f"'{DEFAULT_PROJECT}'"))
