"""Bring the bytes of a data file here: from a path, an http(s) address, or a name on the Hugging Face hub.

Does not cache what it downloads over http(s): name a local copy, or pin `sha256`, where the contents must not
change under a stage.
"""

from __future__ import annotations

import base64
import errno
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from jpu import files
from jpu.errors import DataError, InfrastructureError, JpuError, StorageError

TIMEOUT_SECONDS = 30.0
MAX_BYTES = 64 * 1024 * 1024

_PERMANENT = {400, 401, 403, 404, 405, 410, 451}


@dataclass(frozen=True)
class Fetched:
    """The bytes of a data file.

    Attributes:
        where: The location as it may be shown: an address without user, password, query and fragment.
        name: The file's own name, without folders.
        data: Contents.
        sha256: Hex SHA-256 of `data`.
    """

    where: str
    name: str
    data: bytes
    sha256: str


def fetch(
    location: str,
    *,
    sha256: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    max_bytes: int = MAX_BYTES,
) -> Fetched:
    """Read a data file.

    Args:
        location: A local path, `http(s)://…`, or `hf:owner/dataset/path/in/it.csv` (with a revision:
            `hf:owner/dataset@revision/…`).
        sha256: Expected hex digest of the contents.
        timeout: Seconds that a server may be silent.
        max_bytes: Largest file that is accepted.

    Raises:
        DataError: No such file, not a data file, too large, or not of the pinned digest.
        StorageError: A local file cannot be read.
        InfrastructureError: The server cannot be reached, or answers with an error of its own (retryable).
    """
    where = shown(location)
    scheme = location.partition(":")[0].lower()
    if scheme in {"http", "https"}:
        data = _download(location, where=where, timeout=timeout, max_bytes=max_bytes)
    elif scheme == "hf":
        data = _read_local(_hub_file(location, timeout=timeout), where=where, max_bytes=max_bytes)
    elif "://" in location:
        raise DataError(
            f"addresses of the kind {scheme}:// are not read",
            where=where,
            mend="Give a local path, an http(s) address, or hf:owner/dataset/file.",
        )
    else:
        data = _read_local(Path(location), where=where, max_bytes=max_bytes)
    found = files.sha256(data)
    if sha256 is not None and found != sha256.lower():
        raise DataError(
            f"its SHA-256 is {found}, not the pinned {sha256.lower()}",
            where=where,
            mend="Check where the file comes from; if the change is wanted, pin the new digest "
            "in params.yaml. Nothing was written.",
        )
    name = PurePosixPath(urlsplit(where).path if "://" in where else where).name
    return Fetched(where=where, name=name, data=data, sha256=found)


def shown(location: str) -> str:
    """The location without anything secret: addresses lose user, password, query and fragment."""
    if "://" not in location:
        return location
    try:
        parts = urlsplit(location)
    except ValueError:
        return location.partition("://")[0] + "://…"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _read_local(path: Path, *, where: str, max_bytes: int) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise DataError("not a file", where=where, mend="Name one file, not a folder or a device.")
        if path.is_file() and path.stat().st_size > max_bytes:
            raise _too_large(where, max_bytes)
        return files.read_bytes(path)
    except ValueError:
        raise DataError("not a usable path", where=where, mend="Remove the NUL character from it.") from None
    except OSError as error:
        raise StorageError(
            f"cannot be read ({error.strerror or error})", where=where, mend="Check the rights of its folder."
        ) from None


def _too_large(where: str, max_bytes: int) -> DataError:
    return DataError(
        f"larger than {max_bytes / 1024**2:g} MiB",
        where=where,
        mend="Split the file, or raise max_file_mib in the data section of params.yaml. Nothing was written.",
    )


def _download(address: str, *, where: str, timeout: float, max_bytes: int) -> bytes:
    # Only http and https, also after a redirect: urllib's default opener would follow one to ftp.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(_request(address), timeout=timeout) as response:
            data: bytes = response.read(max_bytes + 1)
            headers = response.headers
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, where) from None
    except (OSError, http.client.HTTPException) as error:
        # URLError, time-outs, resets, broken transfers: all of them may pass.
        reason = getattr(error, "reason", None) or error
        raise InfrastructureError(
            f"cannot be reached ({reason})",
            where=where,
            mend="Check the address and the network, or download the file and name the local copy. "
            "Nothing was written.",
        ) from None
    except ValueError:
        raise DataError("not a valid address", where=where, mend="Mend it in params.yaml.") from None
    if len(data) > max_bytes:
        raise _too_large(where, max_bytes)
    declared = headers.get("Content-Length", "")
    if declared.isdigit() and len(data) < int(declared):
        # A read with a bound does not notice by itself.
        raise InfrastructureError(
            f"the transfer broke off after {len(data)} of {declared} bytes",
            where=where,
            mend="Try again. Nothing was written.",
        )
    if "text/html" in headers.get("Content-Type", "") or data[:256].lstrip().lower().startswith(
        (b"<!doctype html", b"<html")
    ):
        raise DataError(
            "a web page, not a data file",
            where=where,
            mend="Give the address of the file itself (on a code host: the raw file).",
        )
    return data


def _request(address: str) -> urllib.request.Request:
    """The request; user and password of the address go into a header that no redirect carries on."""
    parts = urlsplit(address)
    account, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, fragment="")))
    if account:
        token = base64.b64encode(unquote(account).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _refused(status: int, where: str) -> JpuError:
    if status in _PERMANENT:
        return DataError(
            f"the server answers {status}",
            where=where,
            mend="Check the address, or download the file and name the local copy. Nothing was written.",
        )
    return InfrastructureError(
        f"the server answers {status}", where=where, mend="Try again later. Nothing was written."
    )


def _hub_file(location: str, *, timeout: float) -> Path:
    owner, _, rest = location.removeprefix("hf:").partition("/")
    dataset, _, filename = rest.partition("/")
    dataset, _, revision = dataset.partition("@")
    if not (owner and dataset and filename):
        raise DataError("not a hub name", where=location, mend="Write hf:owner/dataset/path/of/the/file.csv.")
    # Imported here: it is slow, and most data is local.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                f"{owner}/{dataset}",
                filename,
                repo_type="dataset",
                revision=revision or None,
                etag_timeout=timeout,
            )
        )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError):
        raise DataError(
            "no such dataset on the hub, or it asks for a login",
            where=location,
            mend="Check the name; for a gated dataset set HF_TOKEN. Nothing was written.",
        ) from None
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise DataError(
            "the dataset has no such file or revision", where=location, mend="Check path and revision."
        ) from None
    except errors.HFValidationError:
        raise DataError("not a hub name", where=location, mend="Write hf:owner/dataset/path/of/the/file.csv.") from None
    except OSError as error:
        # Offline, no connection, a server's own error; each of them is an OSError.
        if error.errno == errno.ENOSPC:
            raise StorageError(
                "no space left to download it",
                where=location,
                mend="Free space on the disk of the hub's cache (HF_HOME). Nothing was written.",
            ) from None
        raise InfrastructureError(
            "the hub cannot be reached, and the file is not in the local cache",
            where=location,
            mend="Check the network (and HF_HUB_OFFLINE), or download the file and name the local copy. "
            "Nothing was written.",
        ) from None
