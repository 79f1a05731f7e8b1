"""What emoji sets with names of their own call an emoji, to the name that the other sets know it by."""

_TABLE = """
2hearts=two-hearts amazed-face=astonished-face americasglobe=globe-showing-americas anguish=anguished-face
antennawithbars=antenna-bars aok=ok-hand asiaaustraliaglobe=globe-showing-asia-australia aubergine=eggplant
automatedtellermachine=atm-sign bactriancamel=two-hump-camel banknotedollar=dollar-banknote
banknoteeuro=euro-banknote banknotepound=pound-banknote banknoteyen=yen-banknote bath=person-taking-bath
beachumbrella=beach-with-umbrella bicyclist=person-biking black-push-pin=pushpin
black-skull-cross-bones=skull-and-crossbones black-touch-tone-telephone=telephone blackclubsuit=club-suit
blackdiamondsuit=diamond-suit blackdroplet=droplet blackheartsuit=heart-suit blackpushpin=pushpin
blackquestionmark=red-question-mark blackscissors=scissors blackskullcrossbones=skull-and-crossbones
blackspadesuit=spade-suit blacktelephone=telephone blackuniversalrecyclingsymbol=recycling-symbol
blonde=person-blond-hair bolt=high-voltage bookmarktab=bookmark-tabs boot=womans-boot
bouquet-of-flowers=bouquet bouquetofflowers=bouquet bow=bow-and-arrow bowing=person-bowing
bride=person-with-veil bull-horn=loudspeaker bullhorn=loudspeaker bunny-ears=people-with-bunny-ears
bunny=rabbit-face bunnyside=rabbit catside=cat cellphone=mobile-phone chartdownwardstrend=chart-decreasing
chartupwardstrend=chart-increasing chartupwardstrendyen=chart-increasing-with-yen chilipepper=hot-pepper
clap=clapping-hands clock12oclock=twelve-oclock clock12thirty=twelve-thirty clock1oclock=one-oclock
clock1thirty=one-thirty clock2oclock=two-oclock clock2thirty=two-thirty clock3oclock=three-oclock
clock3thirty=three-thirty clock4oclock=four-oclock clock4thirty=four-thirty clock5thirty=five-thirty
clock6oclock=six-oclock clock6thirty=six-thirty clock7oclock=seven-oclock
closedmailboxlowered=closed-mailbox-with-lowered-flag closedmailboxraised=closed-mailbox-with-raised-flag
compression=clamp confetti=confetti-ball construct=construction-worker constructionsign=construction
controlknob=control-knobs cop=police-officer couple=couple-with-heart couplekiss=kiss
curryandrice=curry-rice daggerknife=dagger dancer=woman-dancing darksunglasses=sunglasses dash=dashing-away
devilhorns=smiling-face-with-horns diamondshapewithdotinside=diamond-with-a-dot digit-eight=keycap-8
digit-five=keycap-5 digit-four=keycap-4 digit-nine=keycap-9 digit-one=keycap-1 digit-seven=keycap-7
digit-six=keycap-6 digit-three=keycap-3 digit-two=keycap-2 digit-zero=keycap-0
dissapointedrelief=sad-but-relieved-face dogside=dog donotlittersymbol=no-littering
doubleexclaimationmark=double-exclamation-mark doveofpeace=dove
downpointingredtriangle=red-triangle-pointed-down dragonhead=dragon-face dragonside=dragon
dromedarycamel=camel earofmaize=ear-of-corn earofrice=sheaf-of-rice electrictorch=flashlight
envelopedownarrowabove=envelope-with-arrow europeafricaglobe=globe-showing-europe-africa
europeancastle=castle europeanpostoffice=post-office evergreen=evergreen-tree
exclaimationquestionmark=exclamation-question-mark fallingleaf=fallen-leaf fatherchristmas=santa-claus
faxicon=fax-machine fireworksparkler=sparkler fishcakeswirl=fish-cake-with-swirl
fishingpoleandfish=fishing-pole fistedhand=raised-fist flag-for-cocos-islands=flag-cocos-keeling-islands
flag-for-swaziland=flag-eswatini flexbicep=flexed-biceps floppydisk2=floppy-disk folder=file-folder
forkknife=fork-and-knife franceflag=flag-france frontfacingchick=front-facing-baby-chick frown=frowning-face
game-dice=game-die gem=gem-stone gesturing-ok-1=person-gesturing-ok girlgirl=women-holding-hands
girlguy=woman-and-man-holding-hands gma=old-woman golfer=person-golfing gpa=old-man
greatbritainflag=flag-united-kingdom grin=grinning-face grineyes=grinning-face-with-smiling-eyes
grinsquint=grinning-squinting-face grinsweat=grinning-face-with-sweat grintears=face-with-tears-of-joy
grinwide=grinning-face-with-big-eyes guapimao=man-with-skullcap guardsman=guard guyguy=men-holding-hands
haircut=person-getting-haircut halo=smiling-face-with-halo hampster=hamster handheldvideocamera=video-camera
hands=raising-hands handup=person-raising-hand hard-disk=computer-disk headmassage=person-getting-massage
heartarrow=heart-with-arrow heartblue=blue-heart hearteyes=smiling-face-with-heart-eyes
heartgreen=green-heart heartpurple=purple-heart heartribbon=heart-with-ribbon heartyellow=yellow-heart
heavyexclaimationmarksymbol=red-exclamation-mark heavymultiplicationsymbol=multiply heels=high-heeled-shoe
high5=raised-hand highbrightness=bright-button highspeedtrainbulletnose=bullet-train hocho=kitchen-knife
hourglassflowingsand=hourglass-not-done housebuilding=house housebuildings=houses
hundredpointssymbol=hundred-points imp=angry-face-with-horns informationsource=information
inputsymbolforlatincapitalletters=input-latin-uppercase inputsymbolforlatinletters=input-latin-letters
inputsymbolforlatinsmallletters=input-latin-lowercase inputsymbolfornumbers=input-numbers
inputsymbolforsymbols=input-symbols italianflag=flag-italy izakayalantern=red-paper-lantern
japaneseangrymask=ogre japanflag=flag-japan kissclosedeyes=kissing-face-with-closed-eyes
kisseyes=kissing-face-with-smiling-eyes koreaflag=flag-south-korea largebluecircle=blue-circle
largeredcircle=red-circle leaffluttering=leaf-fluttering-in-wind left-anger-bubble=right-anger-bubble
left-thought-bubble=thought-balloon left-writing-hand=writing-hand
leftmagnifyingglass=magnifying-glass-tilted-left leftwritinghand=writing-hand leopardside=leopard
linksymbol=link lips=mouth lock=locked lockandkey=locked-with-key lockwithinkpen=locked-with-pen
loudlycrying=loudly-crying-face lowbrightness=dim-button lower-left-pencil=pencil lowerleftcrayon=crayon
lowerleftfountainpen=fountain-pen lowerleftpaintbrush=paintbrush lowerleftpen=pen lowerleftpencil=pencil
mahjong=mahjong-red-dragon manltepiececlock=mantelpiece-clock mansshirt=t-shirt
medicalmask=face-with-medical-mask mensrunner=running-shoe mensshoe=mans-shoe menssymbol=mens-room
meridianglobe=globe-with-meridians minidisc=computer-disk monkeyhear=hear-no-evil-monkey
monkeysee=see-no-evil-monkey monkeyspeak=speak-no-evil-monkey mouseside=mouse moyai=moai
multiplemusicalnotes=musical-notes newmoonwithface=new-moon-face noentrysign=prohibited
nogesture=person-gesturing-no nomouth=face-without-mouth nonpotablewatersymbol=non-potable-water
nooneunder18symbol=no-one-under-eighteen nosmokingsymbol=no-smoking
notebookdecorativecover=notebook-with-decorative-cover okgesture=person-gesturing-ok openlock=unlocked
openmailboxlowered=open-mailbox-with-lowered-flag openmailboxraised=open-mailbox-with-raised-flag
openmouth=face-with-open-mouth optical-disc-icon=optical-disk opticaldisc=optical-disk outbox=outbox-tray
perservere=persevering-face personalcomputer=laptop phonerightarrowleft=mobile-phone-with-arrow pigside=pig
pigsnout=pig-nose pinkwallet=purse playingcardblackjoker=joker policecarsrevolvinglight=police-car-light
poo=pile-of-poo potablewatersystem=potable-water pound-symbol=pound-banknote pout=enraged-face
pray=folded-hands present=wrapped-gift printericon=printer putlitterinitsplacesymbol=litter-in-bin-sign
racecar=racing-car raincloud=cloud-with-rain raisedhandpartfingers=vulcan-salute
raisedhandsfingerssplayed=hand-with-fingers-splayed recreationalvehicle=sport-utility-vehicle
red-wine-glass=wine-glass reminder=reminder-ribbon reversehandmiddlefinger=middle-finger
right-speaker=speaker-low-volume right-speech-bubble=speech-balloon
rightmagnifyingglass=magnifying-glass-tilted-right rightspeaker=speaker-low-volume ringing-bell=bell
ringingbell=bell rowboat=person-rowing-boat running=person-running russianflag=flag-russia
saggitarius=sagittarius sakebottleandcup=sake sandals=womans-sandal schoolsatchel=backpack
screamfear=face-screaming-in-fear sheep=ewe sideways-left-pointing-index=backhand-index-pointing-left
sideways-right-pointing-index=backhand-index-pointing-right silhouetteohjapan=map-of-japan
sixpointedstarwithdot=dotted-six-pointed-star skiandskiboot=skis sleuthspy=detective sliceofpizza=pizza
smallfrown=slightly-frowning-face smallsmile=slightly-smiling-face smileeyes=smiling-face-with-smiling-eyes
smiletongue=face-savoring-food smirk=smirking-face smokingsymbol=cigarette snowcloud=cloud-with-snow
snowmountains=snow-capped-mountain spanishflag=flag-spain speaker3soundwaves=speaker-high-volume
speaker=speaker-low-volume speakercancellation=muted-speaker speakeronesoundwave=speaker-medium-volume
speakingheadinsilhouette=speaking-head speechbubble=speech-balloon spiralcalendarpad=spiral-calendar
spurtingwhale=spouting-whale stamped-envelope=envelope stampedenvelope=envelope steamlocomotive=locomotive
stormcloud=cloud-with-lightning studiomic=studio-microphone sunraincloud=sun-behind-rain-cloud
sunsetoverbuildings=sunset surfer=person-surfing sweat=downcast-face-with-sweat sweatsplash=sweat-droplets
swimming=person-swimming telephonereceiver2=telephone-receiver tennisball=tennis
thoughtbaloon=thought-balloon three-networked-computers=desktop-computer tie=necktie tigerside=tiger
tongueout=face-with-tongue tongueoutwink=winking-face-with-tongue toykotower=tokyo-tower
triangularflagonpost=triangular-flag triumph=face-with-steam-from-nose turban=person-wearing-turban
twistedrightwardsarrows=shuffle-tracks-button uppointingredtriangle=red-triangle-pointed-up
uppointingsmallredtrisngle=red-triangle-pointed-up videocasette=videocassette waitress=person-tipping-hand
walking=person-walking waningbibbousmoon=waning-gibbous-moon warningsign=warning wave=water-wave
waving=waving-hand weightlifter=person-lifting-weights white-wine-glass=wine-glass
whiteexclaimationmark=white-exclamation-mark whitesmilingface=smiling-face whitestar=star whitesun=sun
whitesunbehindcloud=sun-behind-large-cloud whitesunsmallcloud=sun-behind-small-cloud
womansshirt=womans-clothes womenssymbol=womens-room
"""

ALIASES: dict[str, str] = dict(pair.split("=") for pair in _TABLE.split())
