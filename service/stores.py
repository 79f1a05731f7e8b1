"""What the API and the worker both open: catalog, pictures, snapshots and the encoder's bundle."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from index.catalog import Catalog, Collection
from index.engines import OpenEngine
from index.engines.cluster import Cluster
from index.engines.faiss import FaissEngine
from index.engines.gpu import CudaCard, Device, Reason, opening
from index.engines.milvus import FACTORY, opened_with
from index.folders import store_in
from index.live import LiveIndex
from index.mirror import Mirror
from index.rebuild import Rebuilder
from index.snapshot import SnapshotStore
from index.vectors import Vectors
from models.bundle import Bundle
from service.bulk_sources import Sources, source_of
from service.config import InvalidSettings, Settings
from service.console import CommandError
from service.images import ImageStore
from service.signed_tokens import Tokens
from service.spool import Spool


def open_catalog(settings: Settings) -> Catalog:
    """The catalog, its folder made if missing."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Catalog(settings.catalog_address)


def check_catalog(settings: Settings) -> None:
    """Raise CommandError if there is none: a command that only reads must not make an empty catalog in a
    mistyped folder and find it in order."""
    if not settings.catalog_url and not (settings.data_dir / "catalog.db").exists():
        raise CommandError(f"there is no catalog in {settings.data_dir}; name the folder with --data-dir")


def open_bundle(settings: Settings) -> Bundle:
    """The encoder bundle in force."""
    return Bundle.open(Path(settings.bundle) if settings.bundle else Bundle.default_path())


def open_cluster(settings: Settings) -> Cluster | None:
    """The Milvus cluster, if there is one; it is asked when it is needed. Raises CommandError."""
    if not settings.milvus_url:
        return None
    if find_spec("pymilvus") is None:
        raise CommandError("milvus_url is set, but not pymilvus installed: pip install 'momoseek[milvus]'")
    return Cluster(settings.milvus_url, settings.milvus_token)


def open_stores(settings: Settings, cluster: Cluster | None) -> Callable[[Collection], SnapshotStore]:
    """Where each collection's snapshots stand, their vectors in the cluster or beside them."""
    return store_in(settings.snapshots_dir, opened_with(cluster))


def engine_opener(
    settings: Settings, cluster: Cluster | None, note: Callable[[Device, Reason], None]
) -> OpenEngine:
    """What opens saved engines to be searched: those of this machine on the device in force, of which
    ``note`` is told."""
    card = None if settings.index_device == "cpu" else CudaCard.find()
    return opened_with(cluster, opening(settings.index_device, card, note))


def open_index(
    settings: Settings, catalog: Catalog, name: str, open_engine: OpenEngine = FaissEngine.load
) -> LiveIndex:
    """The live index of a collection."""
    return LiveIndex(catalog, store_in(settings.snapshots_dir, open_engine), name)


def encoding_lock(settings: Settings) -> Path:
    """The file that lets one process at a time do tasks that need the encoder."""
    return settings.data_dir / "encoding-tasks.lock"


def open_images(settings: Settings) -> ImageStore:
    """Where pictures are kept."""
    return ImageStore(settings.data_dir, settings.max_image_pixels)


def open_sources(settings: Settings) -> Sources:
    """The files that may become bulk jobs."""
    root = Path(settings.bulk_source_root) if settings.bulk_source_root else None
    return Sources(root, settings.max_body_bytes, spool_dir(settings))


def spool_dir(settings: Settings) -> Path:
    """Where the lines of bulk jobs wait."""
    return settings.data_dir / "spool"


def open_spool(settings: Settings) -> Spool:
    """What keeps the lines of bulk jobs."""
    sources, folder = open_sources(settings), spool_dir(settings)
    limits = settings.max_spool_bytes, settings.max_body_bytes
    return Spool(folder, *limits, lambda data: sources.reading(source_of(data)))


def open_tokens(settings: Settings) -> Tokens | None:
    """What verifies JSON Web Tokens; None: they are not accepted. Raises InvalidSettings, OSError."""
    secret, public_key = settings.jwt_secret_file, settings.jwt_public_key_file
    audience = settings.jwt_audience
    if secret and public_key:
        raise InvalidSettings("of jwt_secret_file and jwt_public_key_file only one can be set")
    if secret:
        return Tokens.of_secret(Path(secret), audience)
    return Tokens.of_public_key(Path(public_key), audience) if public_key else None


def open_rebuilder(settings: Settings, catalog: Catalog, cluster: Cluster | None = None) -> Rebuilder:
    """The rebuilder; it measures text recall with the bundle's own probe queries."""
    bundle = open_bundle(settings)
    texts = bundle.probes()["text"]

    def text_queries(encoder_id: str) -> Vectors | None:
        return texts if encoder_id == bundle.encoder_id else None

    def mirror_of(collection: Collection, items: int) -> Mirror | None:
        type = (collection.index or {}).get("type", settings.index_type)
        far = type == FACTORY or (type == "auto" and items >= settings.milvus_from_items)
        return Mirror(cluster, collection) if cluster and far else None

    stores = open_stores(settings, cluster)
    return Rebuilder(catalog, stores, text_queries, settings.rebuild_policy, mirror_of)
