"""Settings: every fault in the environment is told at once, before anything is connected."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Stop
from pipeline.settings import read_settings


def faults(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What is said of an environment, whose names are without their prefix."""
    for name, value in environment.items():
        monkeypatch.setenv(f"METERLINE_{name}", value)
    with pytest.raises(Stop, match="The settings are faulty") as stop:
        read_settings()
    return stop.value.message


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_protocol_that_logs_in_needs_a_user_and_a_password(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    said = faults(monkeypatch, SECURITY_PROTOCOL=protocol)
    assert f"METERLINE_SASL_USERNAME: {protocol} needs it" in said
    assert f"METERLINE_SASL_PASSWORD: {protocol} needs it" in said
    said = faults(monkeypatch, SASL_USERNAME="ada")
    assert "METERLINE_SASL_USERNAME" not in said
    monkeypatch.setenv("METERLINE_SASL_PASSWORD", "secret")
    assert read_settings().kafka()["sasl.password"] == "secret"


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_the_certificates_must_be_readable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protocol: str
) -> None:
    absent = tmp_path / "none.pem"
    said = faults(monkeypatch, SECURITY_PROTOCOL=protocol, SSL_CA_LOCATION=str(absent))
    assert f"certificates cannot be read from {absent}: No such file" in said
    absent.write_text("no certificate")
    assert f"certificates cannot be read from {absent}: " in faults(monkeypatch)


def test_certificates_are_read_only_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_SSL_CA_LOCATION", "/none.pem")
    assert "ssl.ca.location" not in read_settings().kafka()


@pytest.mark.parametrize("name", ["CLICKHOUSE_URL", "STRIPE_API_BASE"])
@pytest.mark.parametrize("address", ["http://[secret/x", "http://u:secret℀t@h:8123/d"])
def test_an_address_must_be_one_and_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    said = faults(monkeypatch, **{name: address})
    assert f"METERLINE_{name}: is no valid URL" in said
    assert "secret" not in said


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any number."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with pytest.raises(Stop, match="no home directory") as stop:
        read_settings()
    assert "XDG_CACHE_HOME" in stop.value.remedy
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert read_settings().state_directory == Path("/cache/meterline/state")


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = faults(
        monkeypatch, SECURITY_PROTOCOL="SASL_SSL", SSL_CA_LOCATION="/none.pem", LINGER_MS="-1"
    )
    for name in ("SASL_USERNAME", "SASL_PASSWORD", "SSL_CA_LOCATION", "LINGER_MS"):
        assert f"METERLINE_{name}: " in said
