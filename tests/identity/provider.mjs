// An OpenID provider for tests: oidc-provider with one client, two users, and a control interface for the test bed.
// Settings in the environment variable PROVIDER, as JSON:
// {port, key, certificate, public_url, id, client_id, client_secret, users: {NAME: {password, groups}}}
import fs from 'node:fs';
import https from 'node:https';
import Provider from 'oidc-provider';

const settings = JSON.parse(process.env.PROVIDER);
const { users } = settings;
const issuer = `https://127.0.0.1:${settings.port}`;
const routes = `${settings.public_url}/api/auth/oidc/${settings.id}`;
// the newest session id of each user
const sessions = new Map();
// all tokens that a client received
const issued = [];

const provider = new Provider(issuer, {
  clients: [{
    client_id: settings.client_id,
    client_secret: settings.client_secret,
    redirect_uris: [`${routes}/callback`],
    post_logout_redirect_uris: [`${settings.public_url}/`, settings.public_url],
    response_types: ['code'],
    grant_types: ['authorization_code', 'refresh_token'],
    require_auth_time: true,
    backchannel_logout_uri: `${routes}/backchannel`,
    backchannel_logout_session_required: true,
  }],
  claims: { openid: ['sub', 'sid'], profile: ['preferred_username', 'groups'] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  features: {
    devInteractions: { enabled: false },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: async (ctx, form) => {
        ctx.body = form.replace('</form>', '<input type="hidden" name="logout" value="yes"/></form>');
      },
    },
  },
  // without the dispatcher that refuses addresses of this machine, where Pilothouse listens
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  cookies: { keys: ['of the tests'] },
  findAccount: (_, id) => users[id] && {
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, groups: users[id].groups }),
  },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
});
provider.on('grant.success', (ctx) => {
  const code = ctx.oidc.entities.AuthorizationCode;
  if (code) sessions.set(code.accountId, code.sid);
  const { access_token, id_token, refresh_token } = ctx.body;
  issued.push(...[access_token, id_token, refresh_token].filter(Boolean));
});
provider.on('server_error', (_, error) => console.error(error));

const text = async (request) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  return body;
};

// The sign-in form, and its submission.
async function interaction(request, response, uid) {
  if (request.method === 'GET') {
    response.setHeader('content-type', 'text/html');
    response.end(`<form method="post" action="${issuer}/interaction/${uid}"><input name="username"><input name="password"></form>`);
    return;
  }
  const form = new URLSearchParams(await text(request));
  const name = form.get('username');
  if (!users[name] || users[name].password !== form.get('password')) {
    response.writeHead(401).end();
    return;
  }
  const { params } = await provider.interactionDetails(request, response);
  const grant = new provider.Grant({ accountId: name, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(request, response, {
    login: { accountId: name },
    consent: { grantId: await grant.save() },
  });
}

// POST /control with {action: remove | leave | end | issued, user?, group?}: removes a user, removes a user from a group,
// ends the user's session by a back-channel logout, or returns all issued tokens.
async function control(request, response) {
  const { action, user, group } = JSON.parse(await text(request));
  if (action === 'remove') {
    delete users[user];
  } else if (action === 'leave') {
    users[user].groups = users[user].groups.filter((one) => one !== group);
  } else if (action === 'end') {
    const client = await provider.Client.find(settings.client_id);
    await client.backchannelLogout(user, sessions.get(user));
  }
  response.end(JSON.stringify(action === 'issued' ? issued : []));
}

const callback = provider.callback();
const pair = { key: fs.readFileSync(settings.key), cert: fs.readFileSync(settings.certificate) };
https.createServer(pair, async (request, response) => {
  try {
    const [, uid] = request.url.match(/^\/interaction\/([^/?]+)$/) ?? [];
    if (uid) await interaction(request, response, uid);
    else if (request.url === '/control') await control(request, response);
    else await callback(request, response);
  } catch (error) {
    console.error(error);
    response.writeHead(500).end(String(error));
  }
}).listen(settings.port, '127.0.0.1', () => console.log('provider listens'));
