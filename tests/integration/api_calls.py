"""Which calls of AWS a process makes, as botocore itself tells a listener (client side monitoring), in words of IAM."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import PATIENCE_SECONDS

_SERVICES = {"S3": "s3", "Secrets Manager": "secretsmanager", "SSM": "ssm", "EventBridge": "events"}
# Where the permission is not named like the call.
_OF_S3 = {
    "HeadBucket": {"ListBucket"},
    "ListObjectsV2": {"ListBucket"},
    "ListMultipartUploads": {"ListBucketMultipartUploads"},
    "HeadObject": {"GetObject"},
    "CopyObject": {"GetObject", "PutObject"},
    "CreateMultipartUpload": {"PutObject"},
    "UploadPart": {"PutObject"},
    "CompleteMultipartUpload": {"PutObject"},
}


class ApiCalls:
    """What was heard so far."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._heard: set[tuple[str, str]] = set()

    def environment(self) -> dict[str, str]:
        """The variables by which botocore finds the listener."""
        return {"AWS_CSM_ENABLED": "true", "AWS_CSM_HOST": "127.0.0.1", "AWS_CSM_PORT": str(self.port)}

    def hear(self, datagram: bytes) -> None:
        event = json.loads(datagram)
        if event["Type"] == "ApiCall":
            self._heard.add((event["Service"], event["Api"]))

    def actions(self) -> set[str]:
        """The permissions that the calls need. To ask who one is (the Snowflake driver does) everybody may."""
        return {
            f"{_SERVICES.get(service, service)}:{action}"
            for service, api in self._heard - {("STS", "GetCallerIdentity")}
            for action in (_OF_S3.get(api, {api}) if service == "S3" else {api})
        }


@contextmanager
def listening() -> Iterator[ApiCalls]:
    """Hear what processes with the right environment call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        calls = ApiCalls(listener.getsockname()[1])

        def listen() -> None:
            while datagram := listener.recv(65_535):
                calls.hear(datagram)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield calls
        listener.sendto(b"", listener.getsockname())  # ends the thread
        thread.join(PATIENCE_SECONDS)
