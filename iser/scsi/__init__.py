"""SCSI as both sides need it: CDBs, sense data, LUNs, INQUIRY and capacity data.  Bytes in, values out."""
