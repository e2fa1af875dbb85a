"""What other programs say of exports of ces. Each check prints what is wrong, a line each, and ends with status 1 if there is any.

    check.py ro-crate DIR PROFILE SEVERITY   roc-validator, without a network: contexts come from this file
    check.py ro-crate-without DIR PROFILE SEVERITY PROPERTY…
                                             that it tells of the same crate whose run lacks a property
    check.py bag DIR                         bagit
    check.py acro DIR                        acro reads the outputs.json of an export as one of its own sessions
    check.py statement FILE                  in-toto-attestation
    check.py task FILE                       py-tes, and the fields that TES 1.1 requires of a task that has ended
    check.py envelope FILE KEY               securesystemslib: the signature over the statement; KEY as OpenSSH writes it
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile

SCHEMA = """about actionStatus additionalType affiliation agent author codeRepository conditionsOfAccess contentSize contentUrl
    dateModified datePublished description encodingFormat endTime error exampleOfWork funder funding grantee hasDigitalDocumentPermission
    hasPart identifier instrument license mainEntity member memberOf mentions name object permissionType programmingLanguage propertyID
    provider publisher result softwareRequirements softwareVersion sourceOrganization startTime subjectOf url value valueRequired version
    AssessAction ComputerLanguage CreateAction CreativeWork DataDownload Dataset DefinedTerm DigitalDocument DigitalDocumentPermission
    DownloadAction Grant Organization Person Project PropertyValue SoftwareApplication SoftwareSourceCode""".split()
RUN = "containerImage environment registry tag sha256 md5 sha1 ContainerImage DockerImage".split()
# Of RO-Crate 1.1 the meanings are those of the official context (`official`). Of RO-Crate 1.2 and of the terms for workflow runs no published package
# has it: these are the terms that exports use, with the meanings that those give them. A term that is not here has no meaning for the
# validator, which tells of it.
TERMS = {term: f"http://schema.org/{term}" for term in SCHEMA} | {
    "File": "http://schema.org/MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
    "Profile": "http://www.w3.org/ns/dx/prof/Profile",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "@base": None,
}
RUN_TERMS = {term: f"https://w3id.org/ro/terms/workflow-run#{term}" for term in RUN}


def official():
    """What the context of RO-Crate 1.1 itself says of those terms, as the package rocrate has it; with all of it the validator takes minutes."""
    import importlib.util

    (package,) = importlib.util.find_spec("rocrate").submodule_search_locations
    with open(os.path.join(package, "data", "ro-crate.jsonld"), encoding="utf-8") as file:
        document = json.load(file)
    if document["@id"] != "https://w3id.org/ro/crate/1.1/context":
        raise SystemExit(f"the package rocrate has the context {document['@id']}")
    said = document["@context"]
    return {term: said[term] for term in TERMS if term in said} | {"@base": None}


CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": official,
    "https://w3id.org/ro/crate/1.2/context": lambda: TERMS,
    "https://w3id.org/ro/terms/workflow-run/context": lambda: RUN_TERMS,
}


def warm(path):
    """Fills the validator's cache of web pages with the contexts, in each way in which it asks for them."""
    import io

    import requests
    import requests_cache
    import urllib3
    from requests.adapters import BaseAdapter

    class Local(BaseAdapter):
        def send(self, request, **_):
            body = json.dumps({"@context": CONTEXTS[request.url]()}).encode()
            headers = {"Content-Type": "application/ld+json"}
            response = requests.Response()
            response.raw = urllib3.HTTPResponse(
                body=io.BytesIO(body), status=200, headers=headers, preload_content=False, request_url=request.url
            )
            response.status_code, response.url, response.request, response.reason = 200, request.url, request, "OK"
            response.headers = requests.structures.CaseInsensitiveDict(headers)
            return response

        def close(self):
            pass

    session = requests_cache.CachedSession(
        cache_name=path, backend="sqlite", expire_after=-1, allowable_methods=("GET",), allowable_codes=(200, 302, 404)
    )
    session.mount("https://", Local())
    for url in CONTEXTS:
        for headers in ({}, {"Accept": "application/ld+json, application/json"}):
            session.get(url, headers=headers)
    session.close()


def ro_crate(crate, profile, severity):
    with tempfile.TemporaryDirectory() as tmp:
        cache = os.path.join(tmp, "cache")
        warm(cache)
        from rocrate_validator import models, services

        settings = services.ValidationSettings(
            rocrate_uri=crate,
            profile_identifier=profile,
            requirement_severity=getattr(models.Severity, severity),
            offline=True,
            cache_path=cache,
        )
        result = services.validate(settings)
        if not list(result.executed_checks):
            return ["no check was made"]
        return [f"{issue.severity.name} {issue.check.identifier}: {issue.message}" for issue in result.get_issues()]


def ro_crate_without(crate, profile, severity, *properties):
    """The validator tells of the same crate whose run lacks a property; for each of them."""
    wrong = []
    for name in properties:
        with tempfile.TemporaryDirectory() as tmp:
            less = os.path.join(tmp, "crate")
            shutil.copytree(crate, less)
            metadata = os.path.join(less, "ro-crate-metadata.json")
            with open(metadata, encoding="utf-8") as file:
                document = json.load(file)
            runs = [entity for entity in document["@graph"] if entity["@type"] == "CreateAction"]
            for run in runs:
                del run[name]
            with open(metadata, "w", encoding="utf-8") as file:
                json.dump(document, file)
            if not runs or not ro_crate(less, profile, severity):
                wrong.append(f"nothing is said of a run without {name}")
    return wrong


def bag(path):
    import bagit

    try:
        bagit.Bag(path).validate()
    except bagit.BagError as error:
        return [str(error)]
    return []


def acro(path):
    import acro as package
    from acro.record import load_records

    wrong = []
    with open(os.path.join(path, "outputs.json"), encoding="utf-8") as file:
        told = json.load(file)
    if os.path.exists(os.path.join(path, "results.json")):
        wrong.append("a results.json lies beside it")
    for key, entry in told["results"].items():
        for file in entry["files"]:
            with open(os.path.join(path, file["name"]), "rb") as output:
                is_now = hashlib.sha256(output.read()).hexdigest()
            with open(os.path.join(path, "checksums", file["name"] + ".txt"), encoding="utf-8") as checksum:
                if checksum.read() != is_now:
                    wrong.append(f"{key}: its checksum is another's")
    with tempfile.TemporaryDirectory() as tmp:
        session = os.path.join(tmp, "session")
        shutil.copytree(path, session)
        os.remove(os.path.join(session, "outputs.json"))
        # The reader wants the version of its own package and the name of its own document.
        told["version"] = package.version.__version__
        with open(os.path.join(session, "results.json"), "w", encoding="utf-8") as file:
            json.dump(told, file)
        read = load_records(session).results
    if sorted(read) != sorted(told["results"]):
        wrong.append("acro reads other outputs")
    for key, entry in read.items():
        if entry.status not in ("review", "fail"):
            wrong.append(f"{key} is {entry.status}")
    return wrong


def statement(path):
    from google.protobuf import json_format
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        with open(path, encoding="utf-8") as file:
            read = json_format.Parse(file.read(), Message())
        Statement.copy_from_pb(read).validate()
    except (json_format.ParseError, ValueError, TypeError) as error:
        return [str(error)]
    return []


def envelope(path, key):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    with open(path, encoding="utf-8") as file:
        read = json.load(file)
    with open(key, "rb") as file:
        public = load_ssh_public_key(file.read()).public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    signed_by = SSlibKey(read["signatures"][0]["keyid"], "ed25519", "ed25519", {"public": public})
    try:
        Envelope.from_dict(read).verify([signed_by], 1)
    except VerificationError as error:
        return [str(error)]
    return []


# What the schema of TES 1.1 requires, and py-tes does not ask for.
REQUIRED = {
    "inputs": ("path", "type"),
    "outputs": ("path", "url", "type"),
    "executors": ("image", "command"),
    "logs": ("logs", "outputs", "start_time", "end_time"),
}


def task(path):
    import tes

    with open(path, encoding="utf-8") as file:
        text = file.read()
    document = json.loads(text)
    try:
        read = tes.unmarshal(text, tes.Task)
        valid, why = read.is_valid()
    except Exception as error:  # whatever it raises is what it says
        return [f"{type(error).__name__}: {error}"]
    wrong = [] if valid else [str(why)]
    if tes.utils.unmarshal(read.as_json(), tes.Task) != read:
        wrong.append("it is another once written and read again")
    known = set(json.loads(tes.Task().as_json(drop_empty=False)))
    wrong += [f"{name} is no field of a task" for name in document if name not in known]
    if read.state not in ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "UNKNOWN"):
        wrong.append(f"a task that has ended is not {read.state}")
    for name, fields in REQUIRED.items():
        for entry in document[name]:
            wrong += [f"{name} without {field}" for field in fields if field not in entry]
    for log in document["logs"]:
        wrong += ["an executor's log without exit_code" for entry in log["logs"] if "exit_code" not in entry]
        wrong += ["a size that is no text" for entry in log["outputs"] if not isinstance(entry["size_bytes"], str)]
    return wrong


CHECKS = {"ro-crate": ro_crate, "ro-crate-without": ro_crate_without, "bag": bag, "acro": acro, "statement": statement, "envelope": envelope, "task": task}

if __name__ == "__main__":
    found = CHECKS[sys.argv[1]](*sys.argv[2:])
    for line in found:
        print(line)
    sys.exit(1 if found else 0)
