"""Signs in and lists workloads with the client that openapi-python-client generated."""

import sys

from generated.api.auth import post_api_auth_login
from generated.api.workloads import get_api_k8s_workloads
from generated.client import AuthenticatedClient, Client
from generated.models import ErrorReply, LoginBody

address, username, password, cluster, namespace = sys.argv[1:]

with Client(base_url=address) as client:
    login = post_api_auth_login.sync(client=client, body=LoginBody(username=username, password=password))
    assert login is not None and not isinstance(login, ErrorReply), login

session = login.data
cookies = {"session_id": session.session_id}
with AuthenticatedClient(base_url=address, token=session.access_token, cookies=cookies) as client:
    page = get_api_k8s_workloads.sync(client=client, cluster_id=int(cluster), namespace=namespace)
    assert page is not None and not isinstance(page, ErrorReply), page

for workload in page.data.workloads:
    print(workload.type_.value, workload.name, workload.replicas, workload.created_at is not None)
