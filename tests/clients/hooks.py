"""Schemathesis hooks: add the session cookie, and insert names of existing objects, so that valid requests can succeed.

The access token is set with `--header`. Schemathesis omits that header for requests without authentication, but omits no
cookie.
"""

import os
import re

import schemathesis
from schemathesis.core.parameters import ParameterLocation

EXISTING = {"cluster_id": int(os.environ["PILOTHOUSE_CLUSTER"]), "namespace": "shop"}
SESSION = os.environ["PILOTHOUSE_SESSION"]
# The only address of generated clusters that the server may connect to.
API_SERVER = os.environ["PILOTHOUSE_API_SERVER"]
ADDRESS = re.compile(r"https://[^/?#@\s]+(/[^?#\s]*)?")


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None:
        return
    cookies = case.meta.components.get(ParameterLocation.COOKIE)
    if cookies is None or cookies.mode.is_positive:
        case.cookies["session_id"] = SESSION
    valid = case.meta.generation.mode.is_positive
    for part in (case.query, case.body):
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("api_server"), str) and ADDRESS.fullmatch(part["api_server"]):
            part["api_server"] = API_SERVER
        if not valid:
            continue
        if not case.path.endswith("/namespaces/delete"):
            part.update({name: value for name, value in EXISTING.items() if name in part})
        if case.path.endswith("/delete") and part.get("name") == "settings":
            # the other requests need this object
            part["name"] = "retired"
