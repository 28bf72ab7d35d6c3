// Flows with oauth4webapi. The results are those of openid-client.mjs, name for name; `resource` is this one's own.
import * as oauth from "oauth4webapi";
import { given, misnamed, privateKey, refusal, run, visit } from "./conversation.mjs";

const METHODS = {
  client_secret_basic: () => oauth.ClientSecretBasic(given.client_secret),
  client_secret_post: () => oauth.ClientSecretPost(given.client_secret),
  private_key_jwt: async () => oauth.PrivateKeyJwt(await privateKey()),
  none: () => oauth.None(),
};
const LOOPBACK = { [oauth.allowInsecureRequests]: true };
const TASKS = new URL("/tasks", given.server);
const client = { client_id: given.client_id };
const method = await METHODS[given.method]();

async function discovered(issuer = given.issuer, algorithm = "oidc") {
  const response = await oauth.discoveryRequest(new URL(issuer), { algorithm, ...LOOPBACK });
  return oauth.processDiscoveryResponse(new URL(issuer), response);
}

async function asked(server, { pushed = false, DPoP, more = {} } = {}) {
  const checks = {
    verifier: oauth.generateRandomCodeVerifier(),
    state: oauth.generateRandomState(),
    nonce: oauth.generateRandomNonce(),
  };
  const parameters = {
    response_type: "code",
    redirect_uri: given.redirect_uri,
    scope: given.scope,
    state: checks.state,
    nonce: checks.nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(checks.verifier),
    code_challenge_method: "S256",
    ...more,
  };
  if ("max_age" in more) checks.maxAge = Number(more.max_age);
  const link = new URL(server.authorization_endpoint);
  link.searchParams.set("client_id", given.client_id);
  if (pushed) {
    const options = { DPoP, ...LOOPBACK };
    const response = await oauth.pushedAuthorizationRequest(server, client, method, parameters, options);
    const { request_uri } = await oauth.processPushedAuthorizationResponse(server, client, response);
    link.searchParams.set("request_uri", request_uri);
  } else {
    for (const [name, value] of Object.entries(parameters)) link.searchParams.set(name, value);
  }
  return { link, checks };
}

async function exchanged(server, landed, { verifier, state, nonce, maxAge }, DPoP) {
  const parameters = oauth.validateAuthResponse(server, client, landed, state);
  const options = { DPoP, ...LOOPBACK };
  const response = await oauth.authorizationCodeGrantRequest(
    server, client, method, parameters, given.redirect_uri, verifier, options,
  );
  return oauth.processAuthorizationCodeResponse(server, client, response, {
    expectedNonce: nonce,
    maxAge,
    requireIdToken: true,
    ...LOOPBACK,
  });
}

async function signedIn(server, options = {}) {
  const { link, checks } = await asked(server, options);
  return exchanged(server, await visit(link), checks, options.DPoP);
}

async function refreshed(server, token, DPoP) {
  const options = { DPoP, ...LOOPBACK };
  const response = await oauth.refreshTokenGrantRequest(server, client, method, token, options);
  return oauth.processRefreshTokenResponse(server, client, response, LOOPBACK);
}

async function called(tokens, DPoP) {
  const options = { DPoP, ...LOOPBACK };
  try {
    const { access_token } = tokens;
    return (await oauth.protectedResourceRequest(access_token, "GET", TASKS, undefined, undefined, options)).status;
  } catch (error) {
    return error.status ?? String(error);
  }
}

async function shown(server, token, subject, DPoP) {
  const response = await oauth.userInfoRequest(server, client, token, { DPoP, ...LOOPBACK });
  return oauth.processUserInfoResponse(server, client, subject, response);
}

async function introspected(server, tokens) {
  const response = await oauth.introspectionRequest(server, client, method, tokens.access_token, LOOPBACK);
  return oauth.processIntrospectionResponse(server, client, response);
}

const isActive = async (server, tokens) => (await introspected(server, tokens)).active;

async function revoked(server, token) {
  await oauth.processRevocationResponse(await oauth.revocationRequest(server, client, method, token, LOOPBACK));
}

async function discovery() {
  const metadata = await discovered();
  const plain = await discovered(given.issuer, "oauth2");
  return {
    issuers: [metadata.issuer, plain.issuer],
    pkce: metadata.code_challenge_methods_supported.includes("S256"),
    other_issuer: await refusal(discovered(given.issuer.replace("127.0.0.1", "localhost"))),
  };
}

async function code() {
  const server = await discovered();
  const first = await signedIn(server);
  const claims = oauth.getValidatedIdTokenClaims(first);
  const userinfo = await shown(server, first.access_token, claims.sub);
  const statuses = [await called(first)];
  const tokens = await refreshed(server, first.refresh_token);
  statuses.push(await called(tokens));
  const active = given.method === "none" ? [] : [await isActive(server, tokens)];
  await revoked(server, tokens.refresh_token);
  statuses.push(await called(tokens));
  if (given.method !== "none") active.push(await isActive(server, tokens));
  const again = await refusal(refreshed(server, tokens.refresh_token));
  return { claims, userinfo, statuses, active, again, token: tokens.access_token };
}

async function refusals() {
  const server = await discovered();
  const { link, checks } = await asked(server);
  const denied = await visit(link, "deny");
  const landed = await visit(link);
  const exchange = (url, more = {}) => refusal(exchanged(server, url, { ...checks, ...more }));
  const { other, nameless } = misnamed(landed);
  return {
    denied: await exchange(denied),
    other_issuer: await exchange(other),
    no_issuer: await exchange(nameless),
    other_state: await exchange(landed, { state: "another" }),
    other_verifier: await exchange(landed, { verifier: oauth.generateRandomCodeVerifier() }),
    other_nonce: await exchange(landed, { nonce: "another" }),
    spent: await exchange(landed),
  };
}

async function pushed() {
  const server = await discovered();
  const { link, checks } = await asked(server, { pushed: true });
  const tokens = await exchanged(server, await visit(link), checks);
  return { parameters: [...link.searchParams.keys()].sort(), status: await called(tokens) };
}

async function dpop() {
  const server = await discovered();
  const DPoP = oauth.DPoP(client, await oauth.generateKeyPair("ES256"));
  const other = oauth.DPoP(client, await oauth.generateKeyPair("ES256"));
  const pushed = given.method !== "none";
  const more = pushed ? {} : { dpop_jkt: await DPoP.calculateThumbprint() };
  const { link, checks } = await asked(server, { pushed, DPoP, more });
  const landed = await visit(link);
  const code_by_other_key = await refusal(exchanged(server, landed, checks, other));
  const first = await exchanged(server, landed, checks, DPoP);
  const { sub } = oauth.getValidatedIdTokenClaims(first);
  const userinfo = await shown(server, first.access_token, sub, DPoP);
  const tokens = await refreshed(server, first.refresh_token, DPoP);
  return {
    code_by_other_key,
    types: [first.token_type, tokens.token_type],
    same: userinfo.sub === sub,
    statuses: [await called(tokens, DPoP), await called(tokens), await called(tokens, other)],
    introspected: given.method === "none" ? null : await introspected(server, tokens),
    thumbprint: await DPoP.calculateThumbprint(),
    by_other_key: await refusal(refreshed(server, tokens.refresh_token, other)),
  };
}

async function reauthentication() {
  const server = await discovered();
  const claims = async (options) => oauth.getValidatedIdTokenClaims(await signedIn(server, options));
  const { auth_time } = await claims();
  const later = [];
  for (const more of [{}, { max_age: "200" }, { max_age: "0" }, { prompt: "login" }]) {
    later.push((await claims({ pushed: "prompt" in more, more })).auth_time >= auth_time);
  }
  return { later };
}

async function machine() {
  const server = await discovered();
  const asked = { scope: "tasks:read", resource: given.server };
  const response = await oauth.clientCredentialsGrantRequest(server, client, method, asked, LOOPBACK);
  const tokens = await oauth.processClientCredentialsResponse(server, client, response);
  const statuses = [await called(tokens)];
  const active = [await isActive(server, tokens)];
  await revoked(server, tokens.access_token);
  statuses.push(await called(tokens));
  active.push(await isActive(server, tokens));
  return { scope: tokens.scope, statuses, active };
}

async function device() {
  const server = await discovered();
  const begun = async () => {
    const asked = { scope: given.scope };
    const response = await oauth.deviceAuthorizationRequest(server, client, method, asked, LOOPBACK);
    return oauth.processDeviceAuthorizationResponse(server, client, response);
  };
  const polled = async ({ device_code }) => {
    const response = await oauth.deviceCodeGrantRequest(server, client, method, device_code, LOOPBACK);
    return oauth.processDeviceCodeResponse(server, client, response, LOOPBACK);
  };
  const [unseen, refused, allowed] = [await begun(), await begun(), await begun()];
  const pending = await refusal(polled(unseen));
  await visit(refused.verification_uri_complete, "deny");
  await visit(allowed.verification_uri, "allow", { user_code: allowed.user_code });
  const first = await polled(allowed);
  const statuses = [await called(first)];
  const tokens = await refreshed(server, first.refresh_token);
  statuses.push(await called(tokens));
  await revoked(server, tokens.refresh_token);
  statuses.push(await called(tokens));
  const [denied, spent] = [await refusal(polled(refused)), await refusal(polled(allowed))];
  return { pending, denied, spent, claims: oauth.getValidatedIdTokenClaims(first), statuses };
}

// The other side: an API that finds us by its own metadata (RFC 9728) and takes our tokens by RFC 9068 and 9449.
async function resource() {
  const api = new URL(given.server);
  const told = await oauth.resourceDiscoveryRequest(api, LOOPBACK);
  const metadata = await oauth.processResourceDiscoveryResponse(api, told);
  const server = await discovered(metadata.authorization_servers[0]);
  const DPoP = oauth.DPoP(client, await oauth.generateKeyPair("ES256"));
  const bearer = await signedIn(server);
  const bound = await signedIn(server, { DPoP });
  const taken = async (tokens, DPoP) => {
    let request;
    const capture = (url, options) => {
      request = new Request(url, options);
      return Response.json([]);
    };
    const options = { DPoP, ...LOOPBACK, [oauth.customFetch]: capture };
    await oauth.protectedResourceRequest(tokens.access_token, "GET", TASKS, undefined, undefined, options);
    return oauth.validateJwtAccessToken(server, request, given.server, LOOPBACK);
  };
  return { bearer: await taken(bearer), bound: await taken(bound, DPoP), as_bearer: await refusal(taken(bound)) };
}

await run({ discovery, code, refusals, pushed, dpop, reauthentication, machine, device, resource });
