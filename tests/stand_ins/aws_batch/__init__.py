"""A stand-in for AWS Batch: real HTTP on loopback that runs real commands.

It is not AWS Batch. It checks requests and answers against the model of the service that botocore ships, so their shape
is right. What it does with them, and the texts of its reasons, are from the documentation and were not measured.
"""
