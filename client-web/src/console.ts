/** The host's page: trade the secret for a token, mount the desk. */
import "./styles/tokens.css";
import "./styles/base.css";
import { mount } from "svelte";
import Console from "./Console.svelte";
import { DeskDriver } from "./console/driver";

const target = document.getElementById("app");
if (target) {
  const driver = new DeskDriver(new AbortController().signal);
  mount(Console, { target, props: { desk: driver.store } });
  void driver.start();
}
