"""LIO's ``saveconfig.json``, as targetcli writes it, as a configuration of ours.

Where something cannot be had as it was, less is allowed and not more: whom LIO let only read is not let write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from target.config.importing.document import Document, Imported

__all__ = ["import_lio"]

_Json = Mapping[str, Any]

#: LIO's names for what we have, too: limits by the parameter of a portal group.
_NUMBERS = {"FirstBurstLength": "first_burst_length", "MaxBurstLength": "max_burst_length"}
_FLAGS = {"ImmediateData": "immediate_data", "InitialR2T": "initial_r2t"}
_BACKENDS = {"fileio": "file", "block": "block", "ramdisk": "memory"}


def import_lio(data: _Json) -> Imported:
    """``data`` is the parsed file; whatever of it is not of the shape that targetcli writes is passed over."""
    document = Document()
    stores = {(_text(store, "plugin"), _text(store, "name")): store for store in _dicts(data, "storage_objects")}
    for target in _dicts(data, "targets"):
        name = _text(target, "wwn")
        if target.get("fabric", "iscsi") != "iscsi":
            document.note(f"target {name}: not imported: its fabric is {target['fabric']}, ours are iSCSI and iSER")
        else:
            _target(document, name, target, stores)
    for module in _dicts(data, "fabric_modules"):
        if module.get("name") == "iscsi":
            _discovery(document, module)
    return document.result("LIO's saveconfig.json")


def _discovery(document: Document, module: _Json) -> None:
    if not module.get("discovery_enable_auth"):
        return
    proof = _proof(document, module, "discovery_", "discovery")
    if proof:
        document.discovery.update(proof)
    else:
        document.discovery["initiators"] = ["iqn.1970-01.invalid:nobody"]
        document.note("discovery: LIO wants a proof but has no user for it; nobody may discover until you add one")


def _target(document: Document, name: str, target: _Json, stores: Mapping[tuple[str, str], _Json]) -> None:
    groups = _dicts(target, "tpgs")
    enabled = [group for group in groups if group.get("enable", True)]
    if not enabled:
        document.note(f"target {name}: not imported: none of its portal groups is enabled")
        return
    group = enabled[0]
    for other in groups:
        if other is not group:
            why = "one target has one set of LUNs here" if other in enabled else "it is disabled"
            document.note(f"target {name} tpg{other.get('tag')}: not imported: {why}")
    where = f"target {name} tpg{group.get('tag', 1)}"
    luns = list(_luns(document, where, group, stores))
    if not luns:
        document.note(f"{where}: not imported: it has no LUN that can be imported")
        return
    made: dict[str, Any] = {"name": name}
    parameters = _table(group, "parameters")
    alias = parameters.get("TargetAlias")
    if isinstance(alias, str) and alias and alias != "LIO Target":
        made["alias"] = alias
    portals = list(dict.fromkeys(_portals(document, where, group)))
    if portals:
        made["portals"] = portals
    else:
        document.note(f"{where}: has no portal; it is at every one here")
    made["lun"], made["acl"] = luns, _rules(document, where, group, luns)
    document.target.append(made)
    _limits(document, where, parameters, _table(group, "attributes"))


def _portals(document: Document, where: str, group: _Json) -> Iterator[str]:
    for portal in _dicts(group, "portals"):
        host = _text(portal, "ip_address").strip("[]")
        host = f"[{host}]" if ":" in host else host
        scheme = "iser" if portal.get("iser") else "iscsi"
        listen = f"{scheme}://{host}:{portal.get('port', 3260)}"
        if scheme == "iser":
            document.note(f"{where}: LIO also serves plain iSCSI at {listen}; add an iscsi:// portal if you use that")
        if portal.get("offload"):
            document.note(f"{where}: {listen}: offload has no counterpart")
        tag = group.get("tag", 1)
        name = document.add_portal(listen, tag if isinstance(tag, int) else 1, where)
        if name:
            yield name


# LUNs


def _luns(
    document: Document, where: str, group: _Json, stores: Mapping[tuple[str, str], _Json]
) -> Iterator[dict[str, Any]]:
    for lun in _dicts(group, "luns"):
        number, path = lun.get("index"), _text(lun, "storage_object")
        plugin, _, name = path.removeprefix("/backstores/").partition("/")
        place = f"{where} LUN {number}"
        store = stores.get((plugin, name))
        if store is None or not isinstance(number, int):
            document.note(f"{place}: not imported: there is no storage object {path}")
        elif plugin not in _BACKENDS:
            document.note(f"{place}: not imported: a {plugin} backstore has no counterpart")
        elif document.claim(_text(store, "dev") or path, place):
            yield {"id": number} | _store(document, place, _BACKENDS[plugin], store)
        group_name = lun.get("alua_tg_pt_gp_name")
        if group_name not in (None, "", "default_tg_pt_gp"):
            document.note(f"{place}: ALUA group {group_name} has no counterpart")


def _store(document: Document, place: str, backend: str, store: _Json) -> dict[str, Any]:
    attributes = _table(store, "attributes")
    made: dict[str, Any] = {"backend": backend}
    if backend == "memory":
        document.note(f"{place}: what the RAM disk holds does not come with it")
    else:
        made["path"] = _text(store, "dev")
    block_size = attributes.get("block_size", 512)
    if block_size not in (512, 4096):
        document.note(f"{place}: block size {block_size} is 512 here; check that its users can live with that")
        block_size = 512
    size = store.get("size")
    if isinstance(size, int) and backend != "block":
        made["size"] = size - size % block_size
    if block_size != 512:
        made["block_size"] = block_size
    serial = _text(store, "wwn")
    if 0 < len(serial) <= 36 and serial.isascii():
        made["serial"] = serial
        document.note(
            "serial numbers are those of LIO, but vendor and NAA names are our own: an initiator that finds "
            "its disks by WWN sees new ones"
        )
    if store.get("readonly"):
        made["read_only"] = True
    if store.get("write_back"):
        document.note(f"{place}: write_back has no counterpart: the page cache is used, and flushed when asked to")
    if attributes.get("pi_prot_type"):
        document.note(f"{place}: protection information (T10 PI) has no counterpart")
    return made


# Rules


def _rules(document: Document, where: str, group: _Json, luns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A target without rules would be open to everybody, so there always is one."""
    attributes = _table(group, "attributes")
    wants_proof = bool(attributes.get("authentication"))
    rules = [
        _rule(document, f"{where} {_text(acl, 'node_wwn')}", acl, luns, wants_proof)
        for acl in _dicts(group, "node_acls")
    ]
    if not attributes.get("generate_node_acls"):
        return rules or [_nobody(document, where)]
    if attributes.get("demo_mode_write_protect", 1):
        if rules:
            document.note(f"{where}: LIO let everybody else read; a rule cannot say that here, so nobody else gets in")
            return rules
        for lun in luns:
            lun["read_only"] = True
        document.note(f"{where}: LIO let everybody read and nobody write (demo mode); so its LUNs are read_only")
    everybody: dict[str, Any] = {"initiator": "*"}
    if wants_proof:
        proof = _proof(document, group, "chap_", where)
        if not proof:
            document.note(f"{where}: LIO wants a proof from everybody but has no user for it; nobody gets in")
            everybody["allow"] = False
        everybody |= proof
    return [*rules, everybody]


def _nobody(document: Document, where: str) -> dict[str, Any]:
    document.note(f"{where}: has no ACL, so nobody gets in; add a rule for each initiator")
    return {"initiator": "*", "allow": False}


def _rule(document: Document, where: str, acl: _Json, luns: list[dict[str, Any]], wants_proof: bool) -> dict[str, Any]:
    rule: dict[str, Any] = {"initiator": _text(acl, "node_wwn")}
    if wants_proof:
        proof = _proof(document, acl, "chap_", where)
        if not proof:
            document.note(f"{where}: LIO wants a proof but has no user for it; it does not get in")
            return rule | {"allow": False}
        rule |= proof
    elif acl.get("chap_userid"):
        document.note(f"{where}: its CHAP user is not imported: LIO does not ask for it (authentication=0)")
    shown: dict[int, int] = {}
    for mapped in _dicts(acl, "mapped_luns"):
        number, real = mapped.get("index"), mapped.get("tpg_lun")
        lun = next((lun for lun in luns if lun["id"] == real), None)
        if lun is None or not isinstance(number, int):
            document.note(f"{where}: LUN {number} is not shown: LUN {real} was not imported")
        elif mapped.get("write_protect") and not lun.get("read_only"):
            document.note(f"{where}: LUN {number} is not shown: it may only be read, which is of a whole LUN here")
        elif real in shown.values():
            document.note(f"{where}: LUN {number} is not shown: LUN {real} is shown under another number")
        else:
            shown[number] = lun["id"]
    if not shown:
        document.note(f"{where}: sees no LUN, so it does not get in")
        return rule | {"allow": False}
    rule["luns"] = list(shown) if all(number == real for number, real in shown.items()) else shown
    return rule


def _proof(document: Document, table: _Json, prefix: str, where: str) -> dict[str, Any]:
    """``chap`` and ``mutual`` from keys such as ``chap_userid``; empty without a user."""
    user, secret = _text(table, f"{prefix}userid"), _text(table, f"{prefix}password")
    if not user or not secret:
        return {}
    proof: dict[str, Any] = {"chap": [document.add_user(user, secret, where)]}
    mutual, mutual_secret = _text(table, f"{prefix}mutual_userid"), _text(table, f"{prefix}mutual_password")
    if mutual and mutual_secret:
        proof["mutual"] = document.add_user(mutual, mutual_secret, where)
        if mutual_secret == secret:
            document.note(f"{where}: both directions have one secret, which we refuse; give the target another")
    return proof


# Limits


def _limits(document: Document, where: str, parameters: _Json, attributes: _Json) -> None:
    """Ours are of all targets: the first portal group that says something counts."""
    found: dict[str, Any] = {}
    for key, ours in _NUMBERS.items():
        value = parameters.get(key)
        if isinstance(value, str | int) and str(value).isdigit():
            found[ours] = int(value)
    for key, ours in _FLAGS.items():
        if parameters.get(key) in ("Yes", "No"):
            found[ours] = parameters[key] == "Yes"
    depth, timeout = attributes.get("default_cmdsn_depth"), attributes.get("login_timeout")
    if isinstance(depth, int) and 1 <= depth <= 1024:
        found["queue_depth"] = depth
    if isinstance(timeout, int) and timeout > 0:
        found["login_timeout"] = float(timeout)
    for key, value in found.items():
        if document.limits.setdefault(key, value) != value:
            document.note(f"{where}: {key} is {value} there and {document.limits[key]} here: limits are of all targets")
    for key in ("HeaderDigest", "DataDigest"):
        if "None" not in str(parameters.get(key, "None")):
            document.note(f"{where}: {key} cannot be made a must; initiators get it when they ask for it")
    recovery = str(parameters.get("ErrorRecoveryLevel", "0"))
    if recovery != "0":
        document.note(f"{where}: ErrorRecoveryLevel {recovery} is 0 here")


# Shapes


def _dicts(table: _Json, key: str) -> list[_Json]:
    value = table.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _table(table: _Json, key: str) -> _Json:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _text(table: _Json, key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""
