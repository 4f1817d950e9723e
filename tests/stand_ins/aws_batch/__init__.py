"""A stand-in for AWS Batch: real HTTP on loopback, in the words of the service's own model, that really runs commands.

It is not AWS Batch. Requests and answers are checked against the model that botocore ships, so their shape is right;
what the service does with them, and the texts of its reasons, are from its documentation and were not measured.
"""
