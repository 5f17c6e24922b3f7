/** Starts the device's page: finds the key, takes an instance, mounts the screens. */
import "./styles/tokens.css";
import "./styles/base.css";
import { mount } from "svelte";
import App from "./App.svelte";
import { Driver } from "./driver";
import { HubStore, type Actions } from "./store.svelte";
import { claimInstance } from "./identity/instance";
import { loadKeys } from "./identity/keystore";
import { type Keys, invitationIn } from "./identity/proof";

const page = new AbortController();
const invitation = takeInvitation();

/** Takes the invitation out of the address, so that neither history nor reload shows it again. */
function takeInvitation() {
  const found = invitationIn(location.hash);
  if (found !== null) history.replaceState(null, "", location.pathname);
  return found;
}

async function start(target: HTMLElement): Promise<void> {
  let keys: Keys;
  try {
    keys = await loadKeys();
  } catch (error) {
    const hub = new HubStore(new Proxy({} as Actions, { get: () => () => undefined }));
    hub.screen = {
      at: "unable",
      why: error instanceof Error && error.message ? `${error.message}.` : "it has no database.",
    };
    mount(App, { target, props: { hub } });
    return;
  }
  const driver = new Driver(keys, await claimInstance(page.signal), page.signal, invitation);
  mount(App, { target, props: { hub: driver.store } });
  driver.start();
}

const target = document.getElementById("app");
if (target) void start(target);
