// Flows with openid-client. The results are those of oauth4webapi.mjs, name for name.
import * as client from "openid-client";
import { given, misnamed, privateKey, refusal, run, visit } from "./conversation.mjs";

const METHODS = {
  client_secret_basic: () => client.ClientSecretBasic(given.client_secret),
  client_secret_post: () => client.ClientSecretPost(given.client_secret),
  private_key_jwt: async () => client.PrivateKeyJwt(await privateKey()),
  none: () => client.None(),
};
const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";
const TASKS = new URL("/tasks", given.server);

const method = await METHODS[given.method]();

const discovered = (issuer = given.issuer, algorithm = "oidc") =>
  client.discovery(new URL(issuer), given.client_id, undefined, method, {
    algorithm,
    execute: [client.allowInsecureRequests],
  });

async function asked(config, { pushed = false, DPoP, more = {} } = {}) {
  const checks = {
    pkceCodeVerifier: client.randomPKCECodeVerifier(),
    expectedState: client.randomState(),
    expectedNonce: client.randomNonce(),
    idTokenExpected: true,
  };
  const parameters = {
    redirect_uri: given.redirect_uri,
    scope: given.scope,
    state: checks.expectedState,
    nonce: checks.expectedNonce,
    code_challenge: await client.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
    code_challenge_method: "S256",
    ...more,
  };
  if ("max_age" in more) checks.maxAge = Number(more.max_age);
  const link = pushed
    ? await client.buildAuthorizationUrlWithPAR(config, parameters, { DPoP })
    : client.buildAuthorizationUrl(config, parameters);
  return { link, checks };
}

async function signedIn(config, options = {}) {
  const { link, checks } = await asked(config, options);
  const landed = await visit(link);
  return client.authorizationCodeGrant(config, landed, checks, undefined, { DPoP: options.DPoP });
}

async function called(config, tokens, DPoP) {
  try {
    return (await client.fetchProtectedResource(config, tokens.access_token, TASKS, "GET", null, undefined, { DPoP }))
      .status;
  } catch (error) {
    return error.status ?? error.cause?.status ?? String(error);
  }
}

const isActive = async (config, tokens) => (await client.tokenIntrospection(config, tokens.access_token)).active;

async function discovery() {
  const metadata = (await discovered()).serverMetadata();
  const plain = (await discovered(given.issuer, "oauth2")).serverMetadata();
  return {
    issuers: [metadata.issuer, plain.issuer],
    pkce: metadata.supportsPKCE(),
    other_issuer: await refusal(discovered(given.issuer.replace("127.0.0.1", "localhost"))),
  };
}

async function code() {
  const config = await discovered();
  const first = await signedIn(config);
  const claims = first.claims();
  const userinfo = await client.fetchUserInfo(config, first.access_token, claims.sub);
  const statuses = [await called(config, first)];
  const tokens = await client.refreshTokenGrant(config, first.refresh_token);
  statuses.push(await called(config, tokens));
  const active = given.method === "none" ? [] : [await isActive(config, tokens)];
  await client.tokenRevocation(config, tokens.refresh_token);
  statuses.push(await called(config, tokens));
  if (given.method !== "none") active.push(await isActive(config, tokens));
  const again = await refusal(client.refreshTokenGrant(config, tokens.refresh_token));
  return { claims, userinfo, statuses, active, again, token: tokens.access_token };
}

async function refusals() {
  const config = await discovered();
  const { link, checks } = await asked(config);
  const denied = await visit(link, "deny");
  const landed = await visit(link);
  const exchange = (url, more = {}) =>
    refusal(client.authorizationCodeGrant(config, url, { ...checks, ...more }));
  const { other, nameless } = misnamed(landed);
  return {
    denied: await exchange(denied),
    other_issuer: await exchange(other),
    no_issuer: await exchange(nameless),
    other_state: await exchange(landed, { expectedState: "another" }),
    other_verifier: await exchange(landed, { pkceCodeVerifier: client.randomPKCECodeVerifier() }),
    other_nonce: await exchange(landed, { expectedNonce: "another" }),
    spent: await exchange(landed),
  };
}

async function pushed() {
  const config = await discovered();
  const { link, checks } = await asked(config, { pushed: true });
  const tokens = await client.authorizationCodeGrant(config, await visit(link), checks);
  return { parameters: [...link.searchParams.keys()].sort(), status: await called(config, tokens) };
}

async function dpop() {
  const config = await discovered();
  const pair = await client.randomDPoPKeyPair("ES256");
  const DPoP = client.getDPoPHandle(config, pair);
  const other = client.getDPoPHandle(config, await client.randomDPoPKeyPair("ES256"));
  const pushed = given.method !== "none";
  const more = pushed ? {} : { dpop_jkt: await DPoP.calculateThumbprint() };
  const { link, checks } = await asked(config, { pushed, DPoP, more });
  const landed = await visit(link);
  const exchange = (DPoP) => client.authorizationCodeGrant(config, landed, checks, undefined, { DPoP });
  const code_by_other_key = await refusal(exchange(other));
  const first = await exchange(DPoP);
  const { sub } = first.claims();
  const userinfo = await client.fetchUserInfo(config, first.access_token, sub, { DPoP });
  const tokens = await client.refreshTokenGrant(config, first.refresh_token, undefined, { DPoP });
  return {
    code_by_other_key,
    types: [first.token_type, tokens.token_type],
    same: userinfo.sub === sub,
    statuses: [await called(config, tokens, DPoP), await called(config, tokens), await called(config, tokens, other)],
    introspected: given.method === "none" ? null : await client.tokenIntrospection(config, tokens.access_token),
    thumbprint: await DPoP.calculateThumbprint(),
    by_other_key: await refusal(client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP: other })),
  };
}

async function reauthentication() {
  const config = await discovered();
  const { auth_time } = (await signedIn(config)).claims();
  const later = [];
  for (const more of [{}, { max_age: "200" }, { max_age: "0" }, { prompt: "login" }]) {
    later.push((await signedIn(config, { pushed: "prompt" in more, more })).claims().auth_time >= auth_time);
  }
  return { later };
}

async function machine() {
  const config = await discovered();
  const tokens = await client.clientCredentialsGrant(config, { scope: "tasks:read", resource: given.server });
  const statuses = [await called(config, tokens)];
  const active = [await isActive(config, tokens)];
  await client.tokenRevocation(config, tokens.access_token);
  statuses.push(await called(config, tokens));
  active.push(await isActive(config, tokens));
  return { scope: tokens.scope, statuses, active };
}

async function device() {
  const config = await discovered();
  const begun = () => client.initiateDeviceAuthorization(config, { scope: given.scope });
  const polled = (told) => client.pollDeviceAuthorizationGrant(config, { ...told, interval: 0 });
  const [unseen, refused, allowed] = [await begun(), await begun(), await begun()];
  const { device_code } = unseen;
  const pending = await refusal(client.genericGrantRequest(config, DEVICE_GRANT, { device_code }));
  await visit(refused.verification_uri_complete, "deny");
  await visit(allowed.verification_uri, "allow", { user_code: allowed.user_code });
  const first = await polled(allowed);
  const statuses = [await called(config, first)];
  const tokens = await client.refreshTokenGrant(config, first.refresh_token);
  statuses.push(await called(config, tokens));
  await client.tokenRevocation(config, tokens.refresh_token);
  statuses.push(await called(config, tokens));
  const [denied, spent] = [await refusal(polled(refused)), await refusal(polled(allowed))];
  return { pending, denied, spent, claims: first.claims(), statuses };
}

await run({ discovery, code, refusals, pushed, dpop, reauthentication, machine, device });
