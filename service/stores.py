"""What the API and the worker both open: catalog, pictures, snapshots and the encoder's bundle."""

from pathlib import Path

from index.catalog import Catalog
from index.live import LiveIndex
from index.rebuild import Rebuilder, store_in
from index.vectors import Vectors
from models.bundle import Bundle
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


def open_index(settings: Settings, catalog: Catalog, name: str) -> LiveIndex:
    """The live index of a collection."""
    return LiveIndex(catalog, store_in(settings.snapshots_dir)(catalog.collection(name)), name)


def open_images(settings: Settings) -> ImageStore:
    """Where pictures are kept."""
    return ImageStore(settings.data_dir, settings.max_image_pixels)


def open_spool(settings: Settings) -> Spool:
    """Where the lines of bulk jobs wait."""
    return Spool(settings.data_dir / "spool", settings.max_spool_bytes, settings.max_body_bytes)


def open_tokens(settings: Settings) -> Tokens | None:
    """What verifies JSON Web Tokens; None: they are not accepted. Raises InvalidSettings, OSError."""
    secret, public_key = settings.jwt_secret_file, settings.jwt_public_key_file
    audience = settings.jwt_audience
    if secret and public_key:
        raise InvalidSettings("of jwt_secret_file and jwt_public_key_file only one can be set")
    if secret:
        return Tokens.of_secret(Path(secret), audience)
    return Tokens.of_public_key(Path(public_key), audience) if public_key else None


def open_rebuilder(settings: Settings, catalog: Catalog) -> Rebuilder:
    """The rebuilder; it measures text recall with the bundle's own probe queries."""
    bundle = open_bundle(settings)
    texts = bundle.probes()["text"]

    def text_queries(encoder_id: str) -> Vectors | None:
        return texts if encoder_id == bundle.encoder_id else None

    return Rebuilder(catalog, store_in(settings.snapshots_dir), text_queries, settings.rebuild_policy)
