// Drives a real Chromium through an authorization: node consent.mjs URL EMAIL PASSWORD allow|deny BACK
// Prints one JSON document: where the browser ended, which pages it saw, and what its console complained of.
import { chromium } from "playwright-core";

const [url, email, password, decision, back] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  const complaints = [];
  const titles = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  await page.goto(url);
  titles.push(await page.title());
  await page.fill("#email", email);
  await page.fill("#password", password);
  await page.click("button[type=submit]");
  await page.waitForSelector(`button[value=${decision}]`);
  titles.push(await page.title());
  const cookies = await page.context().cookies();
  await Promise.all([page.waitForURL((one) => one.href.startsWith(back)), page.click(`button[value=${decision}]`)]);
  const shown = cookies.map(({ name, httpOnly, sameSite }) => ({ name, httpOnly, sameSite }));
  console.log(JSON.stringify({ ended: page.url(), titles, complaints, cookies: shown }));
} finally {
  await browser.close();
}
