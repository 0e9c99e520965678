"""Signs requests of Schemathesis in, and lets the valid ones name things that exist, so that they are more than refused.

The access token comes by `--header`, which it leaves out by itself where a request is to lack it; a cookie it would not.
"""

import os
import re

import schemathesis
from schemathesis.core.parameters import ParameterLocation

KNOWN = {"cluster_id": int(os.environ["PILOTHOUSE_CLUSTER"]), "namespace": "shop"}
SESSION = os.environ["PILOTHOUSE_SESSION"]
# Of the clusters that it makes up only this one is dialled.
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
            part.update({name: value for name, value in KNOWN.items() if name in part})
        if case.path.endswith("/delete") and part.get("name") == "settings":
            # the other calls need that one
            part["name"] = "retired"
