"""A pynetdicom storage receiver that keeps raw data sets.

usage: dicom_scp.py PORT AE_TITLE FOLDER [STATUS]
Writes FOLDER/INSTANCE.raw (the data set as it came) and one line "INSTANCE SHA-256 TRANSFER-SYNTAX CALLING CALLED" to FOLDER/log. STATUS (hex, default
0000) is the answer; a file FOLDER/status, when there, holds another one and is read for each object. Any SOP class, every syntax that pynetdicom
knows, and those in the environment's SYNTAXES (blank separated).
"""

import hashlib
import os
import pathlib
import sys

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.sop_class import Verification

port, title, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
status = int(sys.argv[4], 16) if len(sys.argv) > 4 else 0
folder.mkdir(parents=True, exist_ok=True)
log = open(folder / "log", "a", encoding="ascii")


def store(event):
    request = event.request
    content = request.DataSet.getvalue()
    instance = str(request.AffectedSOPInstanceUID)
    (folder / f"{instance}.raw").write_bytes(content)
    requestor, acceptor = event.assoc.requestor, event.assoc.acceptor
    log.write(f"{instance} {hashlib.sha256(content).hexdigest()} {event.context.transfer_syntax} {requestor.ae_title} {requestor.primitive.called_ae_title}\n")
    log.flush()
    try:
        return int((folder / "status").read_text(), 16)
    except (OSError, ValueError):
        return status


_config.UNRESTRICTED_STORAGE_SERVICE = True
ae = AE(ae_title=title)
ae.maximum_pdu_size = 0
ae.add_supported_context(Verification)
# Unrestricted: any storage-like class is taken; the list only says which transfer syntaxes are.
from pynetdicom import AllStoragePresentationContexts  # noqa: E402

for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, list(ALL_TRANSFER_SYNTAXES) + os.environ.get("SYNTAXES", "").split())
ae.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])
