//! The stable code of every error: what a script can decide on and a search engine can find.
//!
//! The first two digits say which room the error comes from. A number is never given a second
//! meaning; `docs/errors.md` has an entry for each, which `rvm explain` prints.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The code of an error, `E` and four digits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // docs/errors.md says more about each than a line here could
        pub enum Code {
            $($name,)*
        }

        impl Code {
            /// All of them, in the order of their rooms.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// As it is printed.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }

            /// Its name in the source.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                }
            }
        }
    };
}

codes! {
    // 01: cli
    Interrupted = "E0100",
    Usage = "E0101",
    UnknownMachine = "E0102",
    SeveralMachines = "E0103",
    SomeFailed = "E0104",
    WorkingFolder = "E0105",
    Variable = "E0106",
    Output = "E0107",
    CannotAsk = "E0108",
    FileExists = "E0109",
    WriteFile = "E0110",
    NotDeclared = "E0111",
    MissingProgram = "E0112",
    Host = "E0113",
    Console = "E0114",
    BoxInUse = "E0115",
    NoSuchPort = "E0116",
    UnknownCode = "E0117",
    NotLocked = "E0118",
    LockFileStale = "E0119",

    // 02: config
    NoVagrantfile = "E0201",
    TwoVagrantfiles = "E0202",
    UnreadableConfig = "E0203",
    ConfigNotAFile = "E0204",
    InvalidConfig = "E0205",

    // 03: machine
    MachineFile = "E0301",
    NoRandom = "E0302",
    RecordVersion = "E0303",
    AmbiguousId = "E0304",
    NotCreated = "E0305",
    NotRunning = "E0306",
    MachineEnded = "E0307",
    CopyFailed = "E0308",
    MachineBusy = "E0310",
    NotReady = "E0311",
    NotForwarded = "E0312",
    OldAgent = "E0313",
    BootTimeout = "E0320",
    BootEnded = "E0321",
    BootPanic = "E0322",
    BootNoRoot = "E0323",
    BootNoMemory = "E0324",
    BootNoNetwork = "E0325",
    BootNoSshServer = "E0326",
    BootSilent = "E0327",
    BootLogin = "E0328",
    BootHostKey = "E0329",
    BootEmergency = "E0330",
    BootFileSystem = "E0331",
    FolderUnserved = "E0340",
    FolderOfHost = "E0341",
    FolderNotMounted = "E0342",
    FolderNotCopied = "E0343",
    FolderNotWatched = "E0344",
    VolumeInUse = "E0350",
    VolumeAttached = "E0351",
    NoSuchVolume = "E0352",

    // 04: provision
    StepFailed = "E0401",
    StepUnable = "E0402",
    StepCut = "E0403",
    UnknownStep = "E0404",
    StepSource = "E0405",
    Stamps = "E0406",
    MirrorUnreachable = "E0407",
    StepTimedOut = "E0408",
    GuestRebooted = "E0409",
    GuestGone = "E0410",
    HookFailed = "E0411",
    NoStepLog = "E0412",

    // 05: ssh
    SshConnect = "E0501",
    SshSilent = "E0502",
    SshHandshake = "E0503",
    HostKeyMismatch = "E0504",
    LoginRefused = "E0505",
    ConnectionLost = "E0506",
    SshProtocol = "E0507",
    SshInput = "E0508",
    SshTimedOut = "E0509",
    KeyFile = "E0510",
    BadKey = "E0511",
    EncryptedKey = "E0512",
    OpenKey = "E0513",

    // 06: image
    UnknownBox = "E0601",
    NotInStore = "E0602",
    BoxBusy = "E0603",
    BadMirror = "E0604",
    BrokenBox = "E0605",
    ImageFile = "E0606",
    MissingTool = "E0607",
    NoSubIds = "E0608",
    BuildFailed = "E0609",
    NotAKernel = "E0610",
    NoModule = "E0611",
    DiskTooSmall = "E0612",
    BadDisk = "E0613",
    BadImage = "E0614",
    BadSeed = "E0615",
    OtherRecipe = "E0620",
    PackagesGone = "E0621",
    BuiltDifferently = "E0622",
    OtherKernel = "E0623",

    // 07: provider
    NoKvm = "E0701",
    NoProvider = "E0702",
    NoQemu = "E0703",
    ProviderFile = "E0704",
    Spawn = "E0705",
    EndedEarly = "E0706",
    NoAnswer = "E0707",
    Stuck = "E0708",
    Sandbox = "E0709",
    QemuEnded = "E0710",
    NoVsock = "E0711",

    // 08: vmm
    KvmClosed = "E0801",
    KvmVersion = "E0802",
    TooManyCpus = "E0803",
    TooManyDevices = "E0804",
    KvmSetup = "E0805",
    GuestMemory = "E0806",
    KernelLoad = "E0807",
    AcpiTables = "E0808",
    CpuSetup = "E0809",
    CpuStopped = "E0810",
    Device = "E0811",
    AddressConflict = "E0812",
    ConsoleLog = "E0813",
    Terminal = "E0814",
    KeepsResetting = "E0815",

    // 09: net
    NoPasst = "E0901",
    NetworkSetup = "E0902",
    PortRace = "E0903",
    PasstFailed = "E0904",
    PortTaken = "E0905",
    PortRefused = "E0906",
    NoPortLeft = "E0907",
    NoVhostUser = "E0908",
    NetworkFile = "E0920",
    NetworkVersion = "E0921",
    SubnetOfHost = "E0922",
    AddressTaken = "E0923",
    NetworkInUse = "E0924",
    NetworkFull = "E0925",
    NoSubnet = "E0926",
    NoSwitch = "E0927",
    NotConnected = "E0928",
    SubnetsOverlap = "E0929",
    NoInterface = "E0930",
    InterfaceRefused = "E0931",

    // 10: state
    NoHome = "E1001",
    RelativeHome = "E1002",
    LockFile = "E1003",
    LockTimeout = "E1004",

    // 11: import
    ImportTooLarge = "E1101",
    NotAVagrantfile = "E1102",
    ImportEndless = "E1103",
}

impl Code {
    /// The code that is written like that, in either case.
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_four_digits_in_order_and_there_once() {
        let texts: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(texts.iter().all(|t| {
            t.len() == 5 && t.starts_with('E') && t.bytes().skip(1).all(|b| b.is_ascii_digit())
        }));
        assert!(texts.windows(2).all(|pair| pair[0] < pair[1]), "{texts:?}");
    }

    #[test]
    fn a_code_is_found_by_its_text() {
        assert_eq!(Code::parse("e0306"), Some(Code::NotRunning));
        assert_eq!(Code::parse("E9999"), None);
        assert_eq!(Code::NotRunning.to_string(), "E0306");
    }
}
