"""Where Meterline runs: read once from the environment, immutable, all faults reported at once.

Every field is set by `METERLINE_<NAME>`; what is counted (meters, plans, customers) is not here
but in `meterline.yaml`.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import Stop


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/meterline`, or `~/.cache/meterline`.

    Raises:
        Stop: there is neither.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meterline"
    except RuntimeError:
        raise Stop(
            "This user has no home directory to keep anything in.",
            remedy="Name a directory, where this user may write, in XDG_CACHE_HOME or HOME.",
        ) from None


class Settings(BaseSettings):
    """All settings of a Meterline process."""

    model_config = SettingsConfigDict(
        env_prefix="METERLINE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    bootstrap_servers: str = Field("localhost:9092", min_length=1)
    config: Path = Path("meterline.yaml")
    #: Names this process among those of its stage; must be stable over restarts of the process.
    #: Empty: host name plus the first free number on this host.
    instance: str = Field("", max_length=100, pattern=r"^[A-Za-z0-9._-]*$")

    #: Where tally keeps a copy of its state, for a faster restart; may be deleted at any time.
    state_directory: Path = Field(default_factory=lambda: cache_directory() / "state")

    #: End when standard input does: for a process that must not outlive the one that started it.
    stop_with_stdin: bool = False

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    #: Needed by the SASL protocols.
    sasl_username: str = Field("", validate_default=True)
    sasl_password: SecretStr = Field(SecretStr(""), validate_default=True)
    #: A file of certificates (PEM); empty means those that the system trusts.
    ssl_ca_location: str = ""

    #: `http://user@host:8123/database`, or `chdb:///directory` for the embedded engine.
    clickhouse_url: str = Field("http://localhost:8123/default", pattern=r"^(https?|chdb)://")
    clickhouse_password: SecretStr = SecretStr("")

    stripe_api_key: SecretStr = SecretStr("")
    #: Only for a stand-in; empty means Stripe itself.
    stripe_api_base: str = Field("", pattern=r"^(https?://.*)?$")

    #: How long intake and tally gather before they transact: more is cheaper, less is sooner. Tally
    #: needs less of it, because what it reads comes a transaction at a time.
    linger_ms: int = Field(5, ge=0, le=60_000)
    tally_linger_ms: int = Field(1, ge=0, le=60_000)
    #: How long a sink gathers before it writes, and how long usage gathers before it is billed.
    clickhouse_linger_ms: int = Field(500, ge=0, le=60_000)
    stripe_linger_ms: int = Field(200, ge=0, le=60_000)
    bill_linger_ms: int = Field(60_000, ge=0, le=3_600_000)

    @field_validator("sasl_username", "sasl_password")
    @classmethod
    def _log_in(cls, given: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        protocol = info.data.get("security_protocol", "")
        if protocol.startswith("SASL") and not given:
            raise ValueError(f"{protocol} needs it")
        return given

    @field_validator("ssl_ca_location")
    @classmethod
    def _read_certificates(cls, location: str, info: ValidationInfo) -> str:
        if location and info.data.get("security_protocol", "").endswith("SSL"):
            try:
                ssl.create_default_context(cafile=location)
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(f"certificates cannot be read from {location}: {reason}") from None
        return location

    @field_validator("clickhouse_url", "stripe_api_base")
    @classmethod
    def _split(cls, url: str) -> str:
        try:
            urlsplit(url)
        except ValueError:
            # Not its text, which may quote what stands in the place of a password.
            raise ValueError("is no valid URL") from None
        return url

    def kafka(self) -> dict[str, str]:
        """The part of a librdkafka configuration that every client of ours shares."""
        shared = {"bootstrap.servers": self.bootstrap_servers}
        if self.security_protocol != "PLAINTEXT":
            shared["security.protocol"] = self.security_protocol
            if self.ssl_ca_location:
                shared["ssl.ca.location"] = self.ssl_ca_location
        if self.security_protocol.startswith("SASL"):
            shared["sasl.mechanism"] = self.sasl_mechanism
            shared["sasl.username"] = self.sasl_username
            shared["sasl.password"] = self.sasl_password.get_secret_value()
        return shared


def read_settings(**overrides: object) -> Settings:
    """The settings of this process; `overrides` (a command's options) win over the environment.

    Raises:
        Stop: naming every faulty setting at once, or there is no place for what is to be kept.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(
            f"METERLINE_{'_'.join(map(str, fault['loc'])).upper()}: "
            + fault["msg"].removeprefix("Value error, ")
            for fault in error.errors()
        )
        raise Stop(
            f"The settings are faulty: {faults}.",
            remedy="Correct these environment variables and start again.",
        ) from None
