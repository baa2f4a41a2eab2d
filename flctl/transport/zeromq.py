"""The ZeroMQ implementation of `flctl.transport.channel`, in one import."""

from flctl.transport.addresses import Address, control_address, control_is_there, parse_address
from flctl.transport.hub import ZeroMqHub
from flctl.transport.link import ControlLink, ZeroMqLink

__all__ = [
    "Address",
    "ControlLink",
    "ZeroMqHub",
    "ZeroMqLink",
    "control_address",
    "control_is_there",
    "parse_address",
]
