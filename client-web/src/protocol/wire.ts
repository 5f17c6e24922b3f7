/**
 * Collects the types of the wire, all generated from Rust, and picks single messages out of
 * unions.
 */
export type { Admission } from "./generated/Admission";
export type { Client } from "./generated/Client";
export type { ConsoleToMaster } from "./generated/ConsoleToMaster";
export type { DeviceKind } from "./generated/DeviceKind";
export type { DeviceToRelay } from "./generated/DeviceToRelay";
export type { EntryKind } from "./generated/EntryKind";
export type { FailureCode } from "./generated/FailureCode";
export type { FeedPage } from "./generated/FeedPage";
export type { FileEntry } from "./generated/FileEntry";
export type { FileRef } from "./generated/FileRef";
export type { HubInfo } from "./generated/HubInfo";
export type { JoinRequestInfo } from "./generated/JoinRequestInfo";
export type { LinkListed } from "./generated/LinkListed";
export type { MasterToConsole } from "./generated/MasterToConsole";
export type { Membership } from "./generated/Membership";
export type { NewFile } from "./generated/NewFile";
export type { GroupSpan } from "./generated/GroupSpan";
export type { Problem } from "./generated/Problem";
export type { RefusedClient } from "./generated/RefusedClient";
export type { RelayToDevice } from "./generated/RelayToDevice";
export type { Resume } from "./generated/Resume";
export type { TransferProgress } from "./generated/TransferProgress";
export type { TransportMode } from "./generated/TransportMode";
import type { MasterToConsole } from "./generated/MasterToConsole";
import type { RelayToDevice } from "./generated/RelayToDevice";

export type Opcode = (RelayToDevice | MasterToConsole)["opcode"];
/** The data of one message, as in `DataOf<RelayToDevice, "CHALLENGE">`. */
export type DataOf<Union extends { opcode: string }, Code extends Union["opcode"]> =
  Extract<Union, { opcode: Code }> extends { data: infer Data } ? Data : never;
/** A message as it arrives. `ref` names the request that the message answers. */
export type Incoming<Union> = Union & { ref?: string };

/** The messages that change the feed, shared by the device's and the console's unions. */
export type FeedChange = Extract<
  RelayToDevice,
  {
    opcode:
      | "FILES_ADDED"
      | "FILES_UPDATED"
      | "FILE_REMOVED"
      | "FILES_WITHDRAWN"
      | "CLIENT_APPROVED"
      | "CLIENT_DIS_APPROVED"
      | "CLIENT_UPDATED";
  }
>;
