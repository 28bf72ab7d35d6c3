// What the drivers share. The test starts `node DRIVER.mjs SETTINGS` and reads a JSON document a line: {"visit"} asks it
// to send somebody to a link and is answered by where they landed, as JSON; {"result"} is the flow's last word.
import { createInterface } from "node:readline";

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

setTimeout(() => process.exit(3), 60_000).unref(); // nothing here takes a second

export const given = JSON.parse(process.argv[2]);

// Returns where the browser was sent, or the page it stayed on. `typed` are fields that a person fills in.
export async function visit(link, decision = "allow", typed = {}) {
  console.log(JSON.stringify({ visit: String(link), decision, typed }));
  const landed = JSON.parse((await answers.next()).value);
  return URL.canParse(landed) ? new URL(landed) : landed;
}

// The link with another issuer in it, and with none (RFC 9207).
export function misnamed(landed) {
  const other = new URL(landed);
  other.searchParams.set("iss", "https://other.example.com");
  const nameless = new URL(landed);
  nameless.searchParams.delete("iss");
  return { other, nameless };
}

// What a call was refused with: OAuth's error, else the status, else the package's own code; null where it was not.
export async function refusal(work) {
  try {
    await work;
    return null;
  } catch (error) {
    return error.error ?? error.cause?.error ?? error.status ?? error.code ?? String(error);
  }
}

export async function privateKey() {
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  return { key: await crypto.subtle.importKey("jwk", given.jwk, algorithm, false, ["sign"]), kid: given.jwk.kid };
}

export async function run(flows) {
  console.log(JSON.stringify({ result: await flows[given.flow]() }));
  process.exit(0);
}
