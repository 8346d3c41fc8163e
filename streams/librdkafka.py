"""The C library beneath the client: the few of its functions that take records past Python.

All are part of its documented interface (rdkafka.h). Only the handle of a client is not: it is
the first field of the client's object, as in every version of confluent-kafka so far.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding
from confluent_kafka import Consumer, Producer, cimpl
from numba import types

#: A pointer, here and in machine code.
Address = int

_library = ctypes.CDLL(cimpl.__file__)
_system = ctypes.CDLL(None)


def _function(name: str, returns: Any, *takes: Any) -> Any:
    function = getattr(_library, name)
    function.restype, function.argtypes = returns, takes
    return function


queue_new = _function("rd_kafka_queue_new", ctypes.c_void_p, ctypes.c_void_p)
queue_of_partition = _function(
    "rd_kafka_queue_get_partition",
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int32,
)
queue_forward = _function("rd_kafka_queue_forward", None, ctypes.c_void_p, ctypes.c_void_p)
queue_destroy = _function("rd_kafka_queue_destroy", None, ctypes.c_void_p)
consume_batch = _function(
    "rd_kafka_consume_batch_queue",
    ctypes.c_ssize_t,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
topic_name = _function("rd_kafka_topic_name", ctypes.c_char_p, ctypes.c_void_p)


def handle_of(client: Consumer | Producer) -> Address:
    """The library's own client, `rd_kafka_t *`; valid until `client` is closed or gone."""
    behind_object_head = id(client) + object.__basicsize__
    return ctypes.c_void_p.from_address(behind_object_head).value or 0


#: The fields of `rd_kafka_message_t`, in words.
MESSAGE_WORDS = 9
ERROR, TOPIC, PARTITION, VALUE, VALUE_SIZE, KEY, KEY_SIZE, OFFSET = range(8)

_address = types.uintp


def _external(library: ctypes.CDLL, name: str, returns: Any, *takes: Any) -> Any:
    """A function that machine code calls by its name, so that the code can be kept on disk."""
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, returns(*takes))


copy = _external(_system, "memcpy", _address, _address, _address, _address)
compare = _external(_system, "memcmp", types.int32, _address, _address, _address)
length_of_text = _external(_system, "strlen", _address, _address)
message_timestamp = _external(
    _library, "rd_kafka_message_timestamp", types.int64, _address, _address
)
message_headers = _external(_library, "rd_kafka_message_headers", types.int32, _address, _address)
header_count = _external(_library, "rd_kafka_header_cnt", _address, _address)
header_at = _external(
    _library,
    "rd_kafka_header_get_all",
    types.int32,
    _address,
    _address,
    _address,
    _address,
    _address,
)
message_destroy = _external(_library, "rd_kafka_message_destroy", types.void, _address)
