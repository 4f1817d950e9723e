"""The shapes of requests and answers, from the model of the service that botocore ships."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from botocore.model import OperationModel, ServiceModel
from botocore.session import Session
from botocore.validate import ParamValidator


class Refused(Exception):
    """An answer of the service that says no."""

    def __init__(self, message: str, code: str = "ClientException", status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


@cache
def service(name: str) -> ServiceModel:
    return ServiceModel(Session().get_component("data_loader").load_service_model(name, "service-2"), name)


@cache
def by_path(name: str) -> Mapping[str, OperationModel]:
    """The operations of a REST service by method and path."""
    model = service(name)
    operations = [model.operation_model(each) for each in model.operation_names]
    return {f"{each.http['method']} {each.http['requestUri']}": each for each in operations}


def check_request(operation: OperationModel, body: Mapping[str, Any]) -> None:
    """Raises Refused if the service could not read this."""
    shape = operation.input_shape
    if shape is None:
        return
    report = ParamValidator().validate(dict(body), shape)
    if report.has_errors():
        raise Refused(f"Error executing request, Exception : {report.generate_report()}")


def check_answer(operation: OperationModel, answer: Mapping[str, Any]) -> None:
    """Raises ValueError if the service could not say this."""
    shape = operation.output_shape
    if shape is None:
        return
    report = ParamValidator().validate(dict(answer), shape)
    if report.has_errors():
        raise ValueError(f"{operation.name} never answers so: {report.generate_report()}")
