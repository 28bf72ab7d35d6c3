// An OpenID provider made of the real `oidc-provider`: its own pages to sign in and consent (any password will do),
// accounts that are whatever one signs in as, and access tokens that are JWTs for one API.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const { PORT, REDIRECT_URI, CLIENT_SECRET, API, IN_ID_TOKEN } = process.env;
const signing = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });

function account(sub) {
  return {
    accountId: sub,
    claims: () => ({ sub, email: `${sub}@example.com`, email_verified: !sub.startsWith("unverified") }),
  };
}

const provider = new Provider(`http://127.0.0.1:${PORT}`, {
  clients: [
    { client_id: "garrison", client_secret: CLIENT_SECRET, redirect_uris: [REDIRECT_URI] },
    {
      client_id: "app",
      application_type: "native",
      token_endpoint_auth_method: "none",
      redirect_uris: ["http://127.0.0.1/landing"],
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  conformIdTokenClaims: !IN_ID_TOKEN, // as is usual: what a scope asks for is at userinfo (OIDC Core section 5.4)
  cookies: { keys: [randomBytes(32).toString("hex")] },
  jwks: { keys: [{ ...signing, use: "sig", alg: "RS256" }] },
  findAccount: (_context, sub) => account(sub),
  features: {
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        scope: "read:tasks write:tasks",
        audience: API,
        accessTokenFormat: "jwt",
        accessTokenTTL: 600,
        jwt: { sign: { alg: "RS256" } },
      }),
      useGrantedResource: () => true,
    },
  },
});

createServer(provider.callback()).listen(Number(PORT), "127.0.0.1");
