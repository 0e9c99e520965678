// Ends a sign-in at an OpenID provider: sends the code and the state of the page's address to the server, which answers with
// the cookies of a session and the path of the console.
'use strict';

const parameters = new URLSearchParams(location.search);
const path = location.pathname.replace(/\/callback$/, '/finish');
// the code must be neither in the history nor in a copied address
history.replaceState(null, '', location.pathname);

function show(text) {
  document.getElementById('state').textContent = text;
}

async function finish() {
  const body = { code: parameters.get('code'), state: parameters.get('state') };
  if (!body.code || !body.state) {
    show('身份提供方拒绝了登录。 The identity provider refused the sign-in.');
    return;
  }
  if (parameters.has('iss')) body.iss = parameters.get('iss');
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
  const reply = await response.json();
  if (reply.success) location.replace(reply.data.to);
  else show(reply.details);
}

finish().catch(() => show('服务器没有响应。 The server does not answer.'));
