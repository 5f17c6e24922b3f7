/** Starts the operator console: trades the secret for a token and mounts the page. */
import "./styles/tokens.css";
import "./styles/base.css";
import { mount } from "svelte";
import Console from "./Console.svelte";
import { OperatorDriver } from "./console/driver";

const target = document.getElementById("app");
if (target) {
  const driver = new OperatorDriver(new AbortController().signal);
  mount(Console, { target, props: { operator: driver.store } });
  void driver.start();
}
