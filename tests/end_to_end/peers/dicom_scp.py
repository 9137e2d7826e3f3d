"""A pynetdicom storage receiver that keeps raw data sets.

usage: dicom_scp.py PORT AE_TITLE FOLDER [STATUS]
Writes FOLDER/INSTANCE.raw (the data set as it came) and one line "INSTANCE SHA-256 TRANSFER-SYNTAX CALLING CALLED" to FOLDER/log. STATUS (hex, default
0000) is the answer; a file FOLDER/status, when there, holds another one and is read for each object. Any SOP class, every syntax that pynetdicom
knows, and those in the environment's SYNTAXES (blank separated). With ARCHIVE set it also answers C-FIND (study root, hierarchical only) about the
objects whose .raw files are there, and writes one line "LEVEL STUDY SERIES INSTANCE" for each query to FOLDER/queries.
"""

import hashlib
import os
import pathlib
import sys

from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

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
    if "ARCHIVE" in os.environ:
        data_set = event.dataset
        (folder / f"{instance}.uids").write_text(f"{data_set.StudyInstanceUID} {data_set.SeriesInstanceUID}", encoding="ascii")
    try:
        return int((folder / "status").read_text(), 16)
    except (OSError, ValueError):
        return status


def find(event):
    asked = event.identifier
    level, study = asked.QueryRetrieveLevel, asked.StudyInstanceUID
    series, instance = asked.get("SeriesInstanceUID", ""), asked.get("SOPInstanceUID", "")
    with open(folder / "queries", "a", encoding="ascii") as queries:
        queries.write(f"{level} {study} {series} {instance}\n")
    if not study or level == "IMAGE" and not series or level not in ("STUDY", "IMAGE"):
        yield 0xA900, None
        return
    told = set()
    for file in sorted(folder.glob("*.uids")):
        has = [*file.read_text(encoding="ascii").split(), file.name[: -len(".uids")]]
        if not file.with_suffix(".raw").exists() or has[0] != study or level == "IMAGE" and has[1] != series or instance and has[2] != instance:
            continue
        answer = Dataset()
        answer.QueryRetrieveLevel, answer.StudyInstanceUID, answer.PatientID = level, has[0], "P000001"
        if level == "IMAGE":
            answer.SeriesInstanceUID, answer.SOPInstanceUID, answer.InstanceAvailability = has[1], has[2], "ONLINE"
        if level == "IMAGE" or study not in told:
            yield 0xFF00, answer
        told.add(study)


_config.UNRESTRICTED_STORAGE_SERVICE = True
ae = AE(ae_title=title)
ae.maximum_pdu_size = 0
ae.add_supported_context(Verification)
# Unrestricted: any storage-like class is taken; the list only says which transfer syntaxes are.
from pynetdicom import AllStoragePresentationContexts  # noqa: E402

for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, list(ALL_TRANSFER_SYNTAXES) + os.environ.get("SYNTAXES", "").split())
handlers = [(evt.EVT_C_STORE, store)]
if "ARCHIVE" in os.environ:
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    handlers.append((evt.EVT_C_FIND, find))
ae.start_server(("127.0.0.1", port), block=True, evt_handlers=handlers)
