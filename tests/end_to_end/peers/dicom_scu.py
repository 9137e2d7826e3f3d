"""Sends Part-10 files with pynetdicom, byte for byte as their data sets stand in the files.

usage: dicom_scu.py PORT CALLED CALLING FILE...
Prints "INSTANCE STATUS" (hex) for every object. Ends with 1 when the association fails. Private classes and syntaxes are proposed like any other.
"""

import sys

from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

_config.STORE_SEND_CHUNKED_DATASET = True
_config.UNRESTRICTED_STORAGE_SERVICE = True
port, called, calling, files = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
ae = AE(ae_title=calling)
metas = [(file, read_file_meta_info(file)) for file in files]
ae.requested_contexts = [
    build_context(c, s) for c, s in sorted({(str(m.MediaStorageSOPClassUID), str(m.TransferSyntaxUID)) for _, m in metas})
]
association = ae.associate("127.0.0.1", port, ae_title=called)
if not association.is_established:
    sys.exit("no association")
for file, meta in metas:
    answer = association.send_c_store(file)
    print(meta.MediaStorageSOPInstanceUID, f"{answer.Status:04X}" if answer else "none", flush=True)
association.release()
