"""JSON Web Tokens instead of API keys: signed elsewhere, verified here, of the same scopes and collections.

The algorithm follows from the kind of key that the operator gave, and never from the token, whose header a
stranger wrote. Keys are files: none is fetched from an address that a token, or anybody, names.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from index.keys import SCOPES, Key, Scope
from service.config import InvalidSettings
from service.installation import IncompleteInstall, is_installed
from service.schemas import COLLECTION_PATTERN

PREFIX = "jwt:"  # of the name by which logs and quotas know who showed a token
_LEEWAY_S = 30.0  # by which the issuer's clock may differ from this one
_MAX_CHARS = 8192
_MIN_SECRET_BYTES = 32  # of HS256: as many as the signature has
_MIN_RSA_BITS = 2048


class TokenRefused(Exception):
    """The request's token is not signed with the key that counts here, or not valid here and now."""


class _Claims(BaseModel):
    """What a token says; other claims are of no interest here."""

    sub: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    scope: str
    collections: list[Annotated[str, Field(pattern=COLLECTION_PATTERN)]] | None = Field(None, min_length=1)
    iat: float = 0.0

    @property
    def highest(self) -> Scope | None:
        """Of the scopes that it lists, with spaces between, the one that includes the others."""
        return next((scope for scope in reversed(SCOPES) if scope in self.scope.split()), None)


class Tokens:
    """Verifies tokens that were made for ``audience`` and signed with ``key`` by ``algorithm``."""

    def __init__(self, key: Any, algorithm: str, audience: str) -> None:
        self._key = key
        self._algorithm = algorithm
        self._audience = audience

    @staticmethod
    def of_secret(path: Path, audience: str) -> "Tokens":
        """HS256 with the secret that the file holds. Raises InvalidSettings, OSError, IncompleteInstall."""
        _check_installed()
        secret = path.read_bytes().strip()
        if secret.startswith(b"-----"):
            raise InvalidSettings(
                f"{path} is a PEM file and no secret; a public key has a setting of its own"
            )
        if len(secret) < _MIN_SECRET_BYTES:
            raise InvalidSettings(f"the secret in {path} has fewer than {_MIN_SECRET_BYTES} bytes")
        return Tokens(secret, "HS256", audience)

    @staticmethod
    def of_public_key(path: Path, audience: str) -> "Tokens":
        """RS256 or EdDSA (Ed25519) with the PEM file's key. Raises as ``of_secret`` does."""
        _check_installed()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(path.read_bytes())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidSettings(f"{path} holds no public key in PEM") from error
        if isinstance(key, Ed25519PublicKey):
            return Tokens(key, "EdDSA", audience)
        if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
            return Tokens(key, "RS256", audience)
        raise InvalidSettings(
            f"the key in {path} is neither RSA of {_MIN_RSA_BITS} bits and more nor Ed25519"
        )

    def verify(self, token: str) -> Key:
        """What the holder may do, as an API key would say it. Raises TokenRefused."""
        import jwt

        if len(token) > _MAX_CHARS:
            raise TokenRefused("The token is too long.")
        try:
            claims = _Claims.model_validate(
                jwt.decode(
                    token,
                    self._key,
                    algorithms=[self._algorithm],
                    audience=self._audience,
                    leeway=_LEEWAY_S,
                    options={"require": ["exp", "aud", "sub", "scope"]},
                )
            )
        except jwt.ExpiredSignatureError:
            raise TokenRefused("The token has expired.") from None
        except (jwt.ImmatureSignatureError, jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as error:
            raise TokenRefused(f"{error}.") from None  # by now it is known that the issuer has signed it
        except (jwt.PyJWTError, ValidationError, ValueError, RecursionError):
            raise TokenRefused(
                "The token is malformed, or not signed with the key that counts here."
            ) from None
        if claims.highest is None:
            raise TokenRefused(f"The token's scope has none of {', '.join(SCOPES)}.")
        within = None if claims.collections is None else tuple(sorted(set(claims.collections)))
        return Key(PREFIX + claims.sub, claims.sub, claims.highest, within, claims.iat, None, None)


def is_token(secret: str) -> bool:
    """Whether this has the form of a token: three parts with dots between, as no API key has."""
    return secret.count(".") == 2


def _check_installed() -> None:
    if not (is_installed("pyjwt") and is_installed("cryptography")):
        raise IncompleteInstall("Tokens need another extra: pip install 'momoseek[jwt]'.")
