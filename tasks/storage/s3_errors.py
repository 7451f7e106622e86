"""What S3 and boto3 say, in our words: what is wrong, where, and the mend. Never a key, a signature or a header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from botocore.exceptions import ClientError

from jpu.errors import DataError, InfrastructureError, JpuError, SettingsError, StorageError
from tasks.storage.base import replaced

_KEYS = {
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "TokenRefreshRequired": "the session token has expired",
    "AuthFailure": "the credentials are not accepted",
    "UnauthorizedAccess": "the credentials are not accepted",
    "401": "the credentials are not accepted",
}
_DENIED = {"AccessDenied", "Forbidden", "403", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed"}
_MISSING = {"NoSuchKey", "NotFound", "404"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507"}
_PLACE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_BROKEN = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_MEND_KEYS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_PROFILE; they are never read from "
    "params.yaml."
)
_MEND_SERVER = "Check that the server runs and AWS_ENDPOINT_URL names it; then run again: it goes on where it was."


def code_of(error: ClientError) -> str:
    """The server's word for what went wrong, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def s3_errors(bucket: str, key: str = "", *, endpoint: str = "") -> Iterator[None]:
    """Turn what boto3 raises into a JpuError that names bucket and key.

    Args:
        bucket: Name of the bucket.
        key: Key or prefix that is asked for.
        endpoint: Address of the server as it may be shown, for errors of the connection.
    """
    where = f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
    try:
        yield
    except ClientError as error:
        raise _refused(error, where, bucket) from error
    except boto.BotoCoreError as error:
        raise _failed(error, where, endpoint) from error


def _refused(error: ClientError, where: str, bucket: str) -> JpuError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    if code in _KEYS:
        return SettingsError(_KEYS[code], where=where, mend=_MEND_KEYS)
    if code in _DENIED:
        return SettingsError(
            f"access denied to bucket {bucket}",
            where=where,
            mend=f"Give these credentials s3:ListBucket and s3:ListBucketMultipartUploads on {bucket}, and "
            f"s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on {bucket}/*.",
        )
    if code == "NoSuchBucket":
        return SettingsError(f"there is no bucket {bucket}", where=where, mend="Make the bucket, or mend its name.")
    if code in _PLACE:
        return SettingsError(
            f"bucket {bucket} is in another region", where=where, mend="Set AWS_DEFAULT_REGION to the bucket's region."
        )
    if code == "RequestTimeTooSkewed":
        return SettingsError(
            "this machine's clock is wrong", where=where, mend="Set the clock; S3 signs with the time."
        )
    if code in _MISSING:
        return DataError("no such file", where=where, mend="Check the name, or that it was not taken by another run.")
    if code == "NoSuchUpload":
        return InfrastructureError("the unfinished upload is gone", where=where, mend="Run again: it is sent anew.")
    if code == "PreconditionFailed":
        return replaced(where)
    if code in _FULL:
        return StorageError("the server has no space left", where=where, mend="Free space there, then run again.")
    if code in _BROKEN:
        return InfrastructureError("the transfer was damaged on its way", where=where, mend="Try again.")
    if status >= 500 or code in {"SlowDown", "RequestTimeout", "InternalError", "OperationAborted", "429"}:
        return InfrastructureError(f"the server answers {code or status}", where=where, mend=_MEND_SERVER)
    return StorageError(f"the server refuses with {code or status}", where=where, mend="Check the name and the bucket.")


def _failed(error: boto.BotoCoreError, where: str, endpoint: str) -> JpuError:
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return SettingsError("no credentials for S3", where=where, mend=_MEND_KEYS)
    if isinstance(error, boto.ProfileNotFound | boto.ConfigParseError | boto.ConfigNotFound | boto.NoRegionError):
        return SettingsError(
            "the AWS configuration cannot be used", where=where, mend="Check AWS_PROFILE and the AWS tools' files."
        )
    if isinstance(error, boto.ParamValidationError | boto.InvalidEndpointConfigurationError):
        return SettingsError("not a name that S3 takes", where=where, mend="Mend the bucket's name or the key.")
    server = endpoint or "S3"
    if isinstance(error, boto.SSLError):
        return InfrastructureError(
            f"the certificate of {server} is not accepted",
            where=where,
            mend="Set AWS_CA_BUNDLE to its authority's file.",
        )
    if isinstance(error, boto.ReadTimeoutError | boto.ConnectTimeoutError):
        return InfrastructureError(f"{server} does not answer", where=where, mend=_MEND_SERVER)
    if isinstance(error, boto.FlexibleChecksumError):
        return InfrastructureError("the transfer was damaged on its way", where=where, mend="Try again.")
    return InfrastructureError(f"{server} cannot be reached", where=where, mend=_MEND_SERVER)
