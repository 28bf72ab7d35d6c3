// A plain Express API that takes tokens of an identity provider. It knows the provider by two addresses only:
// ISSUER (with its slash at the end) and AUDIENCE. EXPRESS_JWT=6 takes the older package with its older call.
const express = require("express");
const jwksRsa = require("jwks-rsa");

const { ISSUER, AUDIENCE, CLIENT_ID, CLIENT_SECRET, PORT = 3000, EXPRESS_JWT = "8" } = process.env;

const options = {
  secret: jwksRsa.expressJwtSecret({
    cache: true,
    rateLimit: true,
    jwksRequestsPerMinute: 5,
    jwksUri: `${ISSUER}.well-known/jwks.json`,
  }),
  audience: AUDIENCE,
  issuer: ISSUER,
  algorithms: ["RS256"],
};
const checkJwt = EXPRESS_JWT === "6" ? require("express-jwt-6")(options) : require("express-jwt").expressjwt(options);

const app = express();

app.get("/test", (req, res) => res.json({ open: "to all" }));

app.get("/test-auth", checkJwt, (req, res) => res.json({ subject: (req.auth || req.user).sub }));

app.get("/get-token", async (req, res) => {
  const answer = await fetch(`${ISSUER}oauth/token`, {
    method: "POST",
    headers: { "content-type": "application/x-www-form-urlencoded" },
    body: new URLSearchParams({
      grant_type: "client_credentials",
      client_id: CLIENT_ID,
      client_secret: CLIENT_SECRET,
      audience: AUDIENCE,
    }),
  });
  res.status(answer.status).json(await answer.json());
});

app.use((error, req, res, next) => res.status(error.status || 500).json({ error: error.code || "internal" }));

app.listen(PORT, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${PORT}`));
