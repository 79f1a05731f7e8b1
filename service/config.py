"""Settings: read once at the edge, from flags, then the environment, then defaults."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from index.engines.kinds import Kind
from index.engines.milvus import FACTORY
from index.policy import Policy
from service.urls import Allowed, is_private_network

PREFIX = "MOMOSEEK_"
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FETCH_HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9_.-]+)(:[1-9]\d{0,4})?")
_ORIGIN = re.compile(r"https?://[^/\s,*]+")
_CLUSTER = re.compile(r"https?://[^/\s@]+(/\w*)?")
_DEFAULT = Policy()


class InvalidSettings(ValueError):
    """A setting has an unusable value; the message names it, its value and where it came from."""


class Settings(BaseModel):
    """Everything that can be set. ``port`` is the flag ``--port`` and the variable ``MOMOSEEK_PORT``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    data_dir: Path = Field(Path("momoseek-data"), description="folder of the catalog, pictures and snapshots")
    catalog_url: str = Field("", description="SQLAlchemy URL of the catalog; empty: SQLite in data_dir")
    bundle: str = Field("", description="folder of the encoder bundle; empty: the packaged one")
    device: Literal["auto", "cpu", "cuda", "openvino"] = Field("auto", description="where the encoder runs")
    index_device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where indexes are searched; on a GPU, if they fit there"
    )
    encoder_threads: int = Field(0, ge=0, le=256, description="cores that encode; 0: all")
    max_batch: int = Field(32, ge=1, le=1024, description="documents in one encoder batch")
    max_queue: int = Field(
        2048, ge=1, description="documents waiting for the encoder before new ones are refused"
    )
    max_wait_s: float = Field(
        0, ge=0, description="estimated wait beyond which requests are refused; 0: a few times their own work"
    )
    decode_threads: int = Field(2, ge=1, le=64, description="pictures decoded at once, beside small JPEGs")
    max_body_bytes: int = Field(
        32_000_000, ge=1024, description="size of a request body; of one line in bulk"
    )
    max_bodies_bytes: int = Field(
        512_000_000, ge=1024, description="size of all request bodies in memory at a time; bulk's are not"
    )
    body_timeout_s: float = Field(
        60.0, gt=0, description="how long a client may send nothing before its request is refused"
    )
    max_image_bytes: int = Field(20_000_000, ge=1024, description="size of an encoded picture")
    max_image_pixels: int = Field(50_000_000, ge=64, description="width times height of a picture")
    max_request_pixels: int = Field(
        1_000_000_000, ge=64, description="the same of all pictures of one request together"
    )
    max_text_chars: int = Field(
        65_536, ge=64, description="length of a text; the encoder reads its beginning"
    )
    max_metadata_bytes: int = Field(65_536, ge=64, description="size of an item's metadata as JSON")
    max_spool_bytes: int = Field(
        10_000_000_000, ge=1024, description="disk space for the lines of bulk jobs that have not ended"
    )
    bulk_source_root: str = Field(
        "",
        description="folder whose files a key of scope write may name as bulk jobs; empty: none",
    )
    max_items: int = Field(256, ge=1, description="items, or texts and pictures to embed, in one request")
    open_to_everybody: bool = Field(
        False, description="listen beyond the loopback address although there is no API key"
    )
    allowed_hosts: str = Field(
        "",
        description="host names, with commas between, under which it answers although there is no API key; "
        "*: any",
    )
    metrics_open: bool = Field(True, description="answer /metrics without an API key")
    max_requests_per_minute: int = Field(
        0, ge=0, description="requests a minute of one API key to one process; 0: no limit"
    )
    jwt_secret_file: str = Field(
        "", description="file with the secret (32 bytes or more) of tokens signed with HS256; empty: none"
    )
    jwt_public_key_file: str = Field(
        "",
        description="PEM file with the public key of tokens signed with RS256 or EdDSA; empty: none",
    )
    jwt_audience: str = Field("momoseek", min_length=1, description="aud that a token must have")
    cors_origins: str = Field(
        "", description="origins whose pages may call the API, with commas between; *: any; empty: none"
    )
    fetch_hosts: str = Field(
        "",
        description="hosts from which pictures are fetched by URL, with commas between; *.cdn.example: those "
        "below it; cdn.example:8443: at that port; *: any public one; empty: none is fetched",
    )
    fetch_networks: str = Field(
        "",
        description="private networks in which hosts of fetch_hosts may stand, such as 10.20.0.0/16, with "
        "commas between; empty: they must have public addresses",
    )
    refresh_s: float = Field(0.5, gt=0, le=60, description="how often other processes' writes are looked for")
    worker: bool = Field(True, description="run the rebuild worker as a supervised process")
    gallery: bool = Field(False, description="index the sample gallery on the first start")
    rebuild_interval_s: float = Field(
        1.0, gt=0, description="how often the worker looks whether a rebuild is due"
    )
    rebuild_min_changes: int = Field(
        _DEFAULT.min_changes, ge=1, description="changes that make a rebuild due"
    )
    rebuild_tail_share: float = Field(
        _DEFAULT.tail_share, ge=0, description="the same, as a share of the snapshot"
    )
    rebuild_max_age_s: float = Field(
        _DEFAULT.max_age_s, ge=0, description="age of a change that makes a rebuild due"
    )
    target_recall: float = Field(
        _DEFAULT.target_recall, ge=0, le=1, description="recall@10 that search is tuned to"
    )
    recall_floor: float = Field(
        _DEFAULT.recall_floor, ge=0, le=1, description="recall@10 below which nothing is published"
    )
    flat_limit: int = Field(
        _DEFAULT.flat_limit, ge=0, description="items up to which search is exact, without a graph"
    )
    index_type: str = Field(
        "auto", description="kind of index: by size and memory; Milvus; or named as a FAISS factory string"
    )
    index_memory_bytes: int = Field(
        0, ge=0, description="memory that the searches of one index may keep busy, for the choice; 0: any"
    )
    milvus_url: str = Field(
        "", description="address of a Milvus cluster for large collections, with a database; empty: none"
    )
    milvus_token: str = Field("", description="API key, or user:password, for the Milvus cluster")
    milvus_from_items: int = Field(
        1_000_000, ge=0, description="items from which on a collection's vectors stand in the Milvus cluster"
    )
    keep_generations: int = Field(_DEFAULT.keep, ge=0, description="older generations kept for rollback")
    recall_sample_share: float = Field(
        0.01, ge=0, le=1, description="searches that are answered again exactly, to measure recall; 0: none"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log line shown"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="of log lines; json: an object each, for collectors"
    )
    traces_address: str = Field(
        "",
        description="OpenTelemetry collector, such as http://collector:4318, that traces are sent to; "
        "empty: none are",
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in _split(value):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, such as https://shop.example")
        return value

    @field_validator("traces_address")
    @classmethod
    def _traces_address(cls, value: str) -> str:
        if value and not _ORIGIN.fullmatch(value.rstrip("/")):
            raise ValueError(f"{value!r} is no address such as http://collector:4318")
        return value

    @field_validator("milvus_url")
    @classmethod
    def _cluster(cls, value: str) -> str:
        if value and not _CLUSTER.fullmatch(value):
            raise ValueError("no address such as https://milvus.example:19530/database, without a user in it")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        for name in _split(value):
            if name != "*" and not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no host name, such as search.example (without a port)")
        return value

    @field_validator("fetch_hosts")
    @classmethod
    def _fetch_hosts(cls, value: str) -> str:
        for host in _split(value):
            if not _FETCH_HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is no host, such as cdn.example, *.cdn.example or cdn.example:8443"
                )
        return value

    @field_validator("fetch_networks")
    @classmethod
    def _fetch_networks(cls, value: str) -> str:
        for network in _split(value):
            if not is_private_network(network):
                raise ValueError(f"{network!r} is no network of private addresses, such as 10.20.0.0/16")
        return value

    @field_validator("index_type")
    @classmethod
    def _kind_of_index(cls, value: str) -> str:
        return value if value in ("auto", FACTORY) else Kind.of(value).factory

    @property
    def own_names(self) -> frozenset[str]:
        """The host names of this server, in lower case; "*": any."""
        names = {"localhost", self.host, *_split(self.allowed_hosts)} - {""}
        return frozenset(name.lower() for name in names)

    @property
    def allowed_origins(self) -> list[str]:
        """The origins whose pages may call the API."""
        return _split(self.cors_origins)

    @property
    def fetching_from(self) -> Allowed:
        """Where pictures may be fetched from."""
        return Allowed(_split(self.fetch_hosts), _split(self.fetch_networks))

    @property
    def catalog_address(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.catalog_url or f"sqlite:///{self.data_dir.resolve() / 'catalog.db'}"

    @property
    def snapshots_dir(self) -> Path:
        """Where snapshots stand."""
        return self.data_dir / "snapshots"

    @property
    def rebuild_policy(self) -> Policy:
        """When a rebuild is due and what it must reach."""
        return Policy(
            min_changes=self.rebuild_min_changes,
            tail_share=self.rebuild_tail_share,
            max_age_s=self.rebuild_max_age_s,
            target_recall=self.target_recall,
            recall_floor=self.recall_floor,
            keep=self.keep_generations,
            flat_limit=self.flat_limit,
            index_type=self.index_type,
            memory_budget_bytes=self.index_memory_bytes or None,
        )


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings in force and the origin of each: flag, variable or "default". Raises InvalidSettings."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if variable in environ:
            values[name], origins[name] = environ[variable], variable
        if flags.get(name) is not None:
            values[name], origins[name] = flags[name], flag_of(name)
    try:
        return Settings(**values), origins
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = without_password(str(first["input"]))
        raise InvalidSettings(f"{origins[name]}={shown}: {first['msg']}") from error


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def as_environment(settings: Settings) -> dict[str, str]:
    """Settings as variables for a child process."""
    return {PREFIX + name.upper(): str(value) for name, value in settings.model_dump().items()}


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that name no setting: most likely a misspelling."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def without_password(url: str) -> str:
    """An address that may be mistyped: whatever could be a password is left out rather than shown."""
    url = re.sub(r"(:/*[^:/@]*):.*@", r"\1:***@", url)  # a password may have an @ in it
    return re.sub(r"(?i)((?:password|passwd|pwd|secret|token|key)\w*=)[^&]*", r"\1***", url)


def flag_of(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")
