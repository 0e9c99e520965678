// Starts Swagger UI, and signs it in. A call needs the access token and the session's cookie: the cookie the browser
// keeps and sends by itself, the token is handed to Swagger UI, whether it came by the form or by trying the operation.
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

// Before the access token ends, so that reading for long signs nobody out.
async function renew(token) {
  const answer = await post('/api/auth/refresh', { refresh_token: token });
  if (answer.success) signedIn(answer.data);
  else signedOut();
}

async function post(path, body) {
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
  return response.json();
}

document.getElementById('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  const answer = await post('/api/auth/login', { username: username.value, password: password.value });
  if (answer.success) {
    password.value = '';
    signedIn(answer.data);
  } else {
    who.value = answer.details;
  }
});
