"""Files as targetcli and administrators of tgt write them, and what an import makes of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from target.config import Config
from target.config.importing import Imported

__all__ = ["LIO", "TGT", "parsed"]

LIO: dict[str, Any] = {
    "fabric_modules": [
        {
            "name": "iscsi",
            "discovery_enable_auth": True,
            "discovery_userid": "finder",
            "discovery_password": "finders keepers",
        }
    ],
    "storage_objects": [
        {
            "aio": False,
            "alua_tpgs": [{"name": "default_tg_pt_gp", "tg_pt_gp_id": 0}],
            "attributes": {"block_size": 512, "emulate_tpu": 1, "emulate_write_cache": 1, "queue_depth": 128},
            "dev": "/srv/disk0.img",
            "name": "disk0",
            "plugin": "fileio",
            "size": 1073741824,
            "write_back": True,
            "wwn": "0b1f6b7e-7a3b-4a0e-9a52-0c7f31f2e6d1",
        },
        {
            "attributes": {"block_size": 512},
            "dev": "/dev/vg0/data",
            "name": "data",
            "plugin": "block",
            "readonly": True,
            "write_back": False,
            "wwn": "5e8d2a90-1111-2222-3333-444444444444",
        },
        {"attributes": {"block_size": 512}, "name": "ram", "plugin": "ramdisk", "size": 268435456, "wwn": "f00"},
        {"attributes": {}, "name": "ram2", "plugin": "ramdisk", "size": 4096, "wwn": "f02"},
        {"dev": "/dev/sg3", "name": "tape", "plugin": "pscsi", "wwn": "f01"},
    ],
    "targets": [
        {
            "fabric": "iscsi",
            "tpgs": [
                {
                    "attributes": {
                        "authentication": 1,
                        "default_cmdsn_depth": 64,
                        "demo_mode_write_protect": 1,
                        "generate_node_acls": 0,
                        "login_timeout": 15,
                    },
                    "enable": True,
                    "luns": [
                        {"alias": "a", "alua_tg_pt_gp_name": "default_tg_pt_gp", "index": 0,
                         "storage_object": "/backstores/fileio/disk0"},
                        {"alias": "b", "index": 1, "storage_object": "/backstores/block/data"},
                        {"alias": "c", "index": 2, "storage_object": "/backstores/ramdisk/ram"},
                        {"alias": "d", "index": 3, "storage_object": "/backstores/pscsi/tape"},
                    ],
                    "node_acls": [
                        {
                            "attributes": {"dataout_timeout": 3},
                            "chap_userid": "alice",
                            "chap_password": "alice's own secret",
                            "chap_mutual_userid": "us",
                            "chap_mutual_password": "the target's secret",
                            "mapped_luns": [
                                {"alias": "x", "index": 0, "tpg_lun": 2, "write_protect": False},
                                {"alias": "y", "index": 1, "tpg_lun": 1, "write_protect": True},
                                {"alias": "z", "index": 5, "tpg_lun": 0, "write_protect": True},
                            ],
                            "node_wwn": "iqn.1994-05.com.redhat:alice",
                        },
                        {
                            "mapped_luns": [{"index": 0, "tpg_lun": 0, "write_protect": False}],
                            "node_wwn": "iqn.1994-05.com.redhat:bob",
                        },
                    ],
                    "parameters": {
                        "FirstBurstLength": "65536",
                        "HeaderDigest": "CRC32C,None",
                        "DataDigest": "CRC32C",
                        "ImmediateData": "Yes",
                        "InitialR2T": "No",
                        "MaxBurstLength": "262144",
                        "TargetAlias": "The disks",
                    },
                    "portals": [
                        {"ip_address": "0.0.0.0", "iser": False, "offload": False, "port": 3260},
                        {"ip_address": "[2001:db8::1]", "iser": True, "offload": False, "port": 3261},
                    ],
                    "tag": 1,
                },
                {"attributes": {}, "enable": False, "luns": [], "node_acls": [], "portals": [], "tag": 2},
            ],
            "wwn": "iqn.2003-01.org.linux-iscsi.host.x8664:sn.abc",
        },
        {
            "fabric": "iscsi",
            "tpgs": [
                {
                    "attributes": {"authentication": 0, "demo_mode_write_protect": 1, "generate_node_acls": 1},
                    "enable": True,
                    "luns": [
                        {"index": 0, "storage_object": "/backstores/ramdisk/ram2"},
                        {"index": 1, "storage_object": "/backstores/ramdisk/ram"},
                    ],
                    "node_acls": [],
                    "parameters": {"FirstBurstLength": "8192"},
                    "portals": [{"ip_address": "0.0.0.0", "iser": False, "port": 3260}],
                    "tag": 1,
                }
            ],
            "wwn": "iqn.2003-01.org.linux-iscsi.host.x8664:sn.demo",
        },
        {"fabric": "vhost", "tpgs": [], "wwn": "naa.5001405f"},
    ],
}  # fmt: skip

TGT = """\
# tgt-admin --dump, and what people add
include /etc/tgt/conf.d/*.conf
default-driver iscsi
ignore-errors no
incomingdiscoveryuser finder "finders keepers"

<target iqn.2008-09.com.example:server.target1>
    backing-store /srv/images/one.img   # LUN 1
    <backing-store /srv/images/two.img>
        lun 5
        block-size 4096
        readonly yes
        scsi_sn IET-0005
        product_id "BIG DISK"
        vendor_id VENDOR
        write-cache off
        params element_type=1
    </backing-store>
    direct-store\t/dev/sdd
    incominguser alice alice-secret-12
    incominguser bob bobs-secret-1234
    outgoinguser us our-secret-56789
    initiator-name iqn.1994-05.com.redhat:alice
    initiator-name iqn.1994-05.com.redhat:bob
    initiator-address 192.168.1.1
    MaxRecvDataSegmentLength 131072
</target>

<target iqn.2008-09.com.example:server.target2>
    driver iser
    <backing-store pool/image>
        bs-type rbd
    </backing-store>
    <backing-store /srv/dvd.iso>
        device-type cd
    </backing-store>
    initiator-address 192.168.1.0/24
</target>

<target iqn.2008-09.com.example:server.open>
    backing-store = /srv/images/open.img
    backing-store /srv/images/one.img
    initiator-address ALL
</target>

<target iqn.2008-09.com.example:server.odd>
    backing-store /srv/x
    bs-type glfs
</target>
"""


def parsed(imported: Imported) -> Config:
    """The text as a configuration; whether its files are there is not looked at."""
    return Config.model_validate(tomllib.loads(imported.text), context=Path("/etc/iser"))
