"""Nobody gets in without a login, from another site, or further than their login goes."""

from __future__ import annotations

import socket
import ssl

import httpx
import psycopg2
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from flows.stack import s3
from flows.stack.credentials import Login
from flows.stack.installation import LOOPBACK
from flows.stack.ports import INTERNAL
from tests.services import Services

pytestmark = pytest.mark.e2e

MLFLOW, PREFECT = "api/2.0/mlflow/experiments/search?max_results=1", "admin/version"
NOBODY = [None, ("jpu", "wrong"), ("admin", "password1234")]


def get(address: str, path: str, login: tuple[str, str] | None = None, **headers: str) -> int:
    return httpx.get(f"{address}/{path}", auth=login, headers=headers, trust_env=False, timeout=20).status_code


def outcome(call: object, **arguments: object) -> str:
    try:
        call(**arguments)  # type: ignore[operator]
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "done"


@pytest.mark.parametrize("login", NOBODY)
@pytest.mark.parametrize("path", ["", MLFLOW, "api/2.0/mlflow-artifacts/artifacts", "graphql", "version"])
def test_mlflow_wants_a_login(login: tuple[str, str] | None, path: str, services: Services) -> None:
    assert get(services.client["MLFLOW_TRACKING_URI"], path, login) == 401


@pytest.mark.parametrize("login", NOBODY)
def test_prefect_wants_a_login(login: tuple[str, str] | None, services: Services) -> None:
    assert get(services.client["PREFECT_API_URL"], PREFECT, login) == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80"])
def test_another_name_for_this_machine_is_refused_even_with_a_login(host: str, services: Services) -> None:
    credentials, client = services.installation.credentials, services.client
    mlflow, prefect = ((login.user, login.password) for login in (credentials.mlflow, credentials.prefect))
    assert get(client["MLFLOW_TRACKING_URI"], MLFLOW, mlflow) == 200
    assert get(client["MLFLOW_TRACKING_URI"], MLFLOW, mlflow, host=host) == 403
    assert get(client["PREFECT_API_URL"], PREFECT, prefect) == 200
    assert get(client["PREFECT_API_URL"], PREFECT, prefect, host=host) == 400


def test_another_site_cannot_write_with_the_browser_s_login(services: Services) -> None:
    login = services.installation.credentials.mlflow
    reply = httpx.post(
        f"{services.client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/create",
        json={"name": "forged"},
        auth=(login.user, login.password),
        headers={"origin": "http://evil.example"},
        trust_env=False,
    )
    assert reply.status_code == 403


@pytest.mark.parametrize(("user", "password"), [("postgres", ""), ("postgres", "postgres"), ("mlflow", "mlflow")])
def test_postgresql_wants_a_password(user: str, password: str, services: Services) -> None:
    port = services.installation.ports["postgres"]
    with pytest.raises(psycopg2.OperationalError, match=r"password authentication failed|no password supplied"):
        psycopg2.connect(host=LOOPBACK, port=port, user=user, password=password, dbname="mlflow")


@pytest.mark.parametrize(("owner", "database"), [("prefect_database", "mlflow"), ("mlflow_database", "prefect")])
def test_an_owner_of_one_database_cannot_open_another(owner: str, database: str, services: Services) -> None:
    login: Login = getattr(services.installation.credentials, owner)
    port = services.installation.ports["postgres"]
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        psycopg2.connect(host=LOOPBACK, port=port, user=login.user, password=login.password, dbname=database)


def test_s3_wants_a_key(services: Services) -> None:
    server = s3.S3(services.installation)
    key = services.installation.credentials.s3_pipeline.user
    wrong = server.client(Login(key, "wrong"))
    assert outcome(wrong.list_objects_v2, Bucket=s3.DVC) == "SignatureDoesNotMatch"
    import boto3

    anonymous = boto3.client("s3", endpoint_url=server.address, config=Config(signature_version=UNSIGNED))
    assert outcome(anonymous.list_objects_v2, Bucket=s3.DVC) == "AccessDenied"
    assert outcome(anonymous.put_object, Bucket=s3.INBOX, Key=f"{s3.INCOMING}/forged") == "AccessDenied"


def test_each_s3_identity_gets_where_it_must_and_no_further(services: Services) -> None:
    server, credentials = s3.S3(services.installation), services.installation.credentials
    pipeline, inbox = server.client(credentials.s3_pipeline), server.client(credentials.s3_inbox)
    assert outcome(inbox.put_object, Bucket=s3.INBOX, Key=f"{s3.INCOMING}/new.jsonl", Body=b"{}") == "done"
    assert outcome(inbox.get_object, Bucket=s3.INBOX, Key=f"{s3.INCOMING}/new.jsonl") == "AccessDenied"
    assert outcome(inbox.list_objects_v2, Bucket=s3.INBOX) == "AccessDenied"
    assert outcome(inbox.put_object, Bucket=s3.INBOX, Key="elsewhere", Body=b"") == "AccessDenied"
    assert outcome(inbox.put_object, Bucket=s3.DVC, Key="elsewhere", Body=b"") == "AccessDenied"
    assert outcome(inbox.create_bucket, Bucket="jpu-another") == "AccessDenied"
    assert outcome(pipeline.get_object, Bucket=s3.INBOX, Key=f"{s3.INCOMING}/new.jsonl") == "done"
    assert outcome(pipeline.put_object, Bucket=s3.INBOX, Key="taken/new.jsonl", Body=b"{}") == "done"
    assert outcome(pipeline.delete_object, Bucket=s3.INBOX, Key=f"{s3.INCOMING}/new.jsonl") == "done"
    assert outcome(pipeline.list_objects_v2, Bucket=s3.MLFLOW) == "AccessDenied"
    assert outcome(pipeline.create_bucket, Bucket="jpu-another") == "AccessDenied"


@pytest.mark.parametrize("port", [name for name in INTERNAL if not name.endswith("grpc")])
def test_s3_has_no_other_way_in(port: str, services: Services) -> None:
    """SeaweedFS's own pages would hand out, unasked, what the keys protect."""
    address = services.installation.url(port)
    for path in ("dir/assign", "dir/lookup?volumeId=1", "buckets/", "buckets/jpu-inbox/", "1,0"):
        assert get(address, path) in {401, 404}, path


@pytest.mark.parametrize("port", [name for name in INTERNAL if name.endswith("grpc")])
def test_the_parts_of_s3_talk_to_nobody_without_their_certificate(port: str, services: Services) -> None:
    where = (LOOPBACK, services.installation.ports[port])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    refused = pytest.raises(ssl.SSLError, match="certificate required")
    with socket.create_connection(where, 10) as plain, context.wrap_socket(plain) as stranger, refused:
        stranger.recv(1)
    private = services.installation.private
    context.load_cert_chain(private / "grpc.crt", private / "grpc.key")
    with socket.create_connection(where, 10) as plain, context.wrap_socket(plain) as one_of_us:
        assert one_of_us.recv(1)


def test_all_listen_on_this_machine_only(services: Services) -> None:
    found = {
        connection.laddr
        for process in services.processes()
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    }
    # Prefect's worker has one more, on which it speaks with the flow runs that it started.
    assert {port for _, port in found} > set(services.installation.ports.values())
    assert {host for host, _ in found} == {LOOPBACK}


def test_only_the_owner_can_read_the_state(services: Services) -> None:
    private = services.installation.private
    assert private.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o077 for file in private.iterdir() if file.is_file()} == {0}
    open_to_all = [entry.name for entry in services.folder.iterdir() if entry.is_dir() and entry.stat().st_mode & 0o077]
    assert open_to_all == []
