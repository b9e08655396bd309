"""Login and text negotiation for both sides, sans-IO (RFC 7143 sections 6 and 13; RFC 7145 section 6).

:class:`InitiatorLogin` and :class:`TargetLogin` are the two machines: PDUs in, PDUs out.  :mod:`iser.login.keys` is the
table of keys that :mod:`iser.login.negotiate` follows; :mod:`iser.login.textneg` is for the full-feature phase.
"""

from __future__ import annotations

from iser.login.auth import InitiatorAuth, NoAuth, TargetAuth
from iser.login.directory import Admission, AdmissionRequest, Redirection, TargetDirectory
from iser.login.initiator import InitiatorLogin, InitiatorLoginConfig
from iser.login.keys import KEYS, Key, Kind, Phase, Role, Scope, Transport
from iser.login.negotiate import Negotiation
from iser.login.params import LOGIN_DATA_LENGTH, NegotiatedParameters, Wishes
from iser.login.result import (
    DEFAULT_PORT,
    DISCOVERY,
    MAX_NAME_LENGTH,
    NORMAL,
    LoginResult,
    TargetAddress,
    is_iscsi_name,
)
from iser.login.stages import MAX_LOGIN_PDUS, NEXT_STAGE
from iser.login.status import LoginStatus, describe_status, login_error
from iser.login.target import TargetLogin, TargetLoginConfig
from iser.login.text import (
    MAX_KEY_LENGTH,
    MAX_PAIRS,
    MAX_TEXT_LENGTH,
    MAX_TEXT_PDUS,
    MAX_VALUE_LENGTH,
    Pair,
    TextAssembler,
    decode_binary,
    decode_number,
    decode_text,
    encode_binary,
    encode_text,
    split_text,
)
from iser.login.textneg import (
    ALL_TARGETS,
    MAX_DISCOVERY_LENGTH,
    MAX_DISCOVERY_PAIRS,
    TargetRecord,
    TextRequester,
    TextResponder,
    parse_targets,
    target_pairs,
)

__all__ = [
    "InitiatorAuth",
    "NoAuth",
    "TargetAuth",
    "Admission",
    "AdmissionRequest",
    "Redirection",
    "TargetDirectory",
    "InitiatorLogin",
    "InitiatorLoginConfig",
    "KEYS",
    "Key",
    "Kind",
    "Phase",
    "Role",
    "Scope",
    "Transport",
    "Negotiation",
    "LOGIN_DATA_LENGTH",
    "NegotiatedParameters",
    "Wishes",
    "DEFAULT_PORT",
    "DISCOVERY",
    "MAX_NAME_LENGTH",
    "NORMAL",
    "LoginResult",
    "TargetAddress",
    "is_iscsi_name",
    "MAX_LOGIN_PDUS",
    "NEXT_STAGE",
    "LoginStatus",
    "describe_status",
    "login_error",
    "TargetLogin",
    "TargetLoginConfig",
    "MAX_KEY_LENGTH",
    "MAX_PAIRS",
    "MAX_TEXT_LENGTH",
    "MAX_TEXT_PDUS",
    "MAX_VALUE_LENGTH",
    "Pair",
    "TextAssembler",
    "decode_binary",
    "decode_number",
    "decode_text",
    "encode_binary",
    "encode_text",
    "split_text",
    "ALL_TARGETS",
    "MAX_DISCOVERY_LENGTH",
    "MAX_DISCOVERY_PAIRS",
    "TargetRecord",
    "TextRequester",
    "TextResponder",
    "parse_targets",
    "target_pairs",
]
