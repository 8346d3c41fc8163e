"""Records as only other languages' clients write them: the names of headers are any bytes."""

from __future__ import annotations

import ctypes

from confluent_kafka import Producer, cimpl

from streams.librdkafka import handle_of
from tests.streams.on_kafka import WAIT_SECONDS_MAX

_library = ctypes.CDLL(cimpl.__file__)
_produce = _library.rd_kafka_produceva
_produce.restype = ctypes.c_void_p
_produce.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

#: Of `rd_kafka_vtype_t` and the flags of a message, in rdkafka.h.
_TOPIC, _PARTITION, _VALUE, _FLAGS, _HEADER = 1, 3, 4, 7, 9
_COPY = 2


class _Bytes(ctypes.Structure):
    _fields_ = (("at", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p), ("size", ctypes.c_ssize_t))


class _Any(ctypes.Union):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("number", ctypes.c_int32),
        ("octets", _Bytes),
        ("header", _Header),
        ("room", ctypes.c_char * 64),
    )


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("value", _Any))


def publish_with_headers(
    address: str, topic: str, value: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Write a record to partition 0, past Python's client, and wait for the broker."""
    producer = Producer({"bootstrap.servers": address})
    arguments = [
        _Argument(_TOPIC, _Any(text=topic.encode())),
        _Argument(_PARTITION, _Any(number=0)),
        _Argument(_VALUE, _Any(octets=_Bytes(value, len(value)))),
        _Argument(_FLAGS, _Any(number=_COPY)),
        *(_Argument(_HEADER, _Any(header=_Header(*one, len(one[1])))) for one in headers),
    ]
    refused = _produce(
        handle_of(producer), (_Argument * len(arguments))(*arguments), len(arguments)
    )
    assert refused is None
    assert producer.flush(WAIT_SECONDS_MAX) == 0
