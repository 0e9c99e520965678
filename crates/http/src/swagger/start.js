// Starts Swagger UI and signs it in. A call needs the access token and the session cookie. The browser stores and sends
// the cookie; the token is passed to Swagger UI after a login by the form or by the login operation.
'use strict';

const who = document.getElementById('who');
let renewal;

const ui = SwaggerUIBundle({
  url: '/api/openapi.json',
  dom_id: '#swagger-ui',
  deepLinking: true,
  docExpansion: 'none',
  filter: true,
  displayRequestDuration: true,
  validatorUrl: null,
  responseInterceptor(response) {
    if (response.ok && /\/api\/auth\/(login|refresh)$/.test(response.url)) signedIn(response.body.data);
    if (response.ok && response.url.endsWith('/api/auth/logout')) signedOut();
    return response;
  },
});

function signedIn(session) {
  ui.preauthorizeApiKey('bearer', session.access_token);
  if (session.user) who.value = `${session.user.username} (${session.user.role})`;
  clearTimeout(renewal);
  renewal = setTimeout(() => renew(session.refresh_token), session.expires_in * 900);
}

function signedOut() {
  ui.authActions.logout(['bearer']);
  who.value = '';
  clearTimeout(renewal);
}

// Runs before the access token expires, so that the page stays signed in while the session lasts. It does not extend the
// session: only the user's calls do.
async function renew(token) {
  // after a login of this page the token is a cookie
  const body = token ? { refresh_token: token } : {};
  const reply = await post('/api/auth/refresh', body, { 'X-Background': 'true' });
  if (reply.success) signedIn(reply.data);
  else signedOut();
}

async function post(path, body, more = {}) {
  const headers = { 'Content-Type': 'application/json', ...more };
  const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
  return response.json();
}

document.getElementById('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  const reply = await post('/api/auth/login', {
    username: username.value, password: password.value, cookie: true,
  });
  if (reply.success) {
    password.value = '';
    signedIn(reply.data);
  } else {
    who.value = reply.details;
  }
});
