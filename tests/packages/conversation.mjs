// What the drivers share. The test starts `node DRIVER.mjs SETTINGS` and reads a JSON document a line: {"visit"} asks it
// to send somebody to a link and is answered by a line with where they landed; {"result"} is the flow's last word.
import { createInterface } from "node:readline";

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

setTimeout(() => process.exit(3), 60_000).unref(); // nothing here takes a second

export const given = JSON.parse(process.argv[2]);

export async function visit(link, decision = "allow") {
  console.log(JSON.stringify({ visit: String(link), decision }));
  return new URL((await answers.next()).value);
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

export async function run(flows) {
  console.log(JSON.stringify({ result: await flows[given.flow]() }));
  process.exit(0);
}
